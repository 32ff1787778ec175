{
  description = "A container image for three systems, in each of the forms that Nix's image builders give";

  # With nixpkgs as an input, an image is one expression:
  #
  #   containerImage = pkgs.dockerTools.buildImage {
  #     name = "hello";
  #     config.Cmd = [ "${pkgs.hello}/bin/hello" ];
  #   };
  #
  # Here image.nix makes it by hand, only so that this example needs no network.
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
        # like dockerTools.buildImage, with either of its compressors
        containerImage = (image { inherit system architecture; }).tarGz;
        plainImage = (image { inherit system architecture; }).tar;

        # like dockerTools.buildLayeredImage
        layeredImage = (image { inherit system architecture; layered = true; }).tarGz;

        # like dockerTools.streamLayeredImage: a script that writes the image
        streamedImage = (image { inherit system architecture; layered = true; }).stream;

        # an OCI layout, as many other tools make it: a folder, and a tar of one
        ociLayout = (image { inherit system architecture; layered = true; }).ociLayout;
        ociArchive = (image { inherit system architecture; layered = true; }).ociArchive;
      }) architectures;

      # for each system, an image that x86_64-linux builds, as pkgsCross does
      legacyPackages.x86_64-linux = builtins.mapAttrs (_: architecture: {
        containerImage = (image { system = "x86_64-linux"; inherit architecture; }).tarGz;
      }) architectures;
    };
}
