{ system ? builtins.currentSystem, pkgs ? import <nixpkgs> { inherit system; } }:
{
  image = pkgs.dockerTools.buildLayeredImage {
    name = "hello";
    config.Entrypoint = [ "${pkgs.hello}/bin/hello" ];
  };
}
