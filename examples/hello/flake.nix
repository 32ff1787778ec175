{
  description = "A container image for three systems, in each of the forms that Nix's image builders give";

  # With nixpkgs as an input, an image is a single expression:
  #
  #   containerImage = pkgs.dockerTools.buildImage {
  #     name = "hello";
  #     config.Entrypoint = [ "${pkgs.hello}/bin/hello" ];
  #   };
  #
  # Here, image.nix assembles it by hand, so that this example needs no network access.
  outputs =
    { self }:
    let
      architectures = {
        x86_64-linux = "amd64";
        aarch64-linux = "arm64";
        armv7l-linux = "arm";
      };
      image = import ./image.nix;
    in
    {
      packages = builtins.mapAttrs (system: architecture: {
        # Like dockerTools.buildImage, with each of its compressors.
        containerImage = (image { inherit system architecture; }).tarGz;
        plainImage = (image { inherit system architecture; }).tar;

        # Like dockerTools.buildLayeredImage.
        layeredImage = (image { inherit system architecture; layered = true; }).tarGz;

        # Like dockerTools.streamLayeredImage: a script that streams the image.
        streamedImage = (image { inherit system architecture; layered = true; }).stream;

        # OCI layouts, as many other tools create them: a folder and a tar.
        ociLayout = (image { inherit system architecture; layered = true; }).ociLayout;
        ociArchive = (image { inherit system architecture; layered = true; }).ociArchive;
      }) architectures;

      # For each system, an image that x86_64-linux builds, like pkgsCross.
      legacyPackages.x86_64-linux = builtins.mapAttrs (_: architecture: {
        containerImage = (image { system = "x86_64-linux"; inherit architecture; }).tarGz;
      }) architectures;
    };
}
