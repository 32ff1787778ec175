{
  description = "The command line of nix-image-action, and a shell for its development";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];
      forEachSystem =
        outputsFor: nixpkgs.lib.genAttrs systems (system: outputsFor nixpkgs.legacyPackages.${system});
      manifest = builtins.fromJSON (builtins.readFile ./package.json);
    in
    {
      # nix run github:nix-image-action/nix-image-action -- build --image ghcr.io/owner/app
      packages = forEachSystem (pkgs: {
        # dist/ contains the program with its dependencies, so nothing is compiled.
        default =
          pkgs.runCommand "${manifest.name}-${manifest.version}"
            {
              nativeBuildInputs = [ pkgs.makeWrapper ];
              meta = {
                inherit (manifest) description homepage;
                license.spdxId = manifest.license;
                mainProgram = manifest.name;
              };
            }
            ''
              lib=$out/lib/${manifest.name}
              mkdir -p $lib
              cp -r ${./bin} $lib/bin
              cp -r ${./dist} $lib/dist
              cp ${./package.json} $lib/package.json
              makeWrapper ${pkgs.nodejs_24}/bin/node $out/bin/${manifest.name} \
                --add-flags $lib/${manifest.bin.${manifest.name}}
            '';
      });

      # The programs that scripts/setup.mjs installs on Debian and Ubuntu. The Docker daemon comes from the system.
      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.nodejs_24
            pkgs.nix
            pkgs.git
            pkgs.docker-client
            pkgs.distribution
            pkgs.skopeo
            pkgs.xz
            pkgs.zstd
            pkgs.gnutar
            pkgs.python3
          ]
          ++ pkgs.lib.optional pkgs.stdenv.hostPlatform.isLinux pkgs.podman;
        };
      });
    };
}
