{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  outputs = { nixpkgs, ... }: {
    legacyPackages.x86_64-linux = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system:
      let pkgs = import nixpkgs { localSystem = "x86_64-linux"; crossSystem = system; }; in {
        containerImage = pkgs.dockerTools.buildLayeredImage {
          name = "hello";
          config.Entrypoint = [ "${pkgs.hello}/bin/hello" ];
        };
      });
  };
}
