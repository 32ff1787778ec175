{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  outputs = { nixpkgs, ... }: {
    packages = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system:
      let pkgs = nixpkgs.legacyPackages.${system}; in {
        containerImage = pkgs.dockerTools.buildLayeredImage {
          name = "hello";
          config.Entrypoint = [ "${pkgs.hello}/bin/hello" ];
        };
      });
  };
}
