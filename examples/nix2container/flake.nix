{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  inputs.nix2container.url = "github:nlewo/nix2container";
  inputs.nix2container.inputs.nixpkgs.follows = "nixpkgs";
  outputs = { nixpkgs, nix2container, ... }: {
    packages = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system:
      let pkgs = nixpkgs.legacyPackages.${system}; in {
        containerImage = nix2container.packages.${system}.nix2container.buildImage {
          name = "hello";
          config.Entrypoint = [ "${pkgs.hello}/bin/hello" ];
        };
      });
  };
}
