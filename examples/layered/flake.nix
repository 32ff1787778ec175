{
  description = "A layered container image, with the structure of nixpkgs' dockerTools.buildLayeredImage";

  # With nixpkgs as an input, an image is a single expression:
  #
  #   containerImage = pkgs.dockerTools.buildLayeredImage {
  #     name = "app";
  #     contents = [ pkgs.hello ];
  #   };
  #
  # Here, image.nix assembles it by hand, so that this example needs no network access.
  outputs =
    { self }:
    let
      image = import ./image.nix;
    in
    {
      packages =
        builtins.mapAttrs
          (system: architecture: rec {
            containerImage = image { inherit system architecture; };
            streamedImage = containerImage.stream;
          })
          {
            x86_64-linux = "amd64";
            aarch64-linux = "arm64";
          };
    };
}
