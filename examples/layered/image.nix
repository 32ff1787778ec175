# A layered image like those of nixpkgs' dockerTools: a JSON description, a script that streams the image, and a tarball
# with the attributes `stream` and `conf`.
{
  system,
  architecture,
  # The content of each store path: its layer gets a file with this text.
  contents ? {
    greeting = "Hello";
    subject = "world";
  },
  # Commands that write more files into a store path, by its name. They run in that folder.
  commands ? { },
  # The names of the store paths in each layer. By default, each layer has one.
  layers ? map (name: [ name ]) (builtins.attrNames contents),
  # Replaces fields of the description.
  description ? { },
  # Fields to leave out of the description, as older versions of nixpkgs do.
  omit ? [ ],
}:
let
  run =
    name: command: environment:
    derivation (
      environment
      // {
        inherit name system;
        builder = "/bin/sh";
        args = [
          "-euc"
          command
        ];
        PATH = "/usr/local/bin:/usr/bin:/bin";
      }
    );

  package =
    name:
    run name ''mkdir -p "$out/share"; cd "$out/share"; printf '%s\n' "$text" > ${name}; eval "$command"'' {
      text = contents.${name};
      command = commands.${name} or "";
    };

  # Not of store paths: dockerTools writes `contents` and `extraCommands` into the root folder of the image.
  customisation = run "app-customisation-layer" ''
    mkdir "$out" etc; echo app > etc/hostname
    tar --create --format=pax --pax-option=delete=atime,delete=ctime --sort=name --owner=0 --group=0 --numeric-owner \
      --mtime=@1 --file="$out/layer.tar" etc
    sha256sum "$out/layer.tar" | cut -d' ' -f1 > "$out/checksum"
  '' { };

  fields = {
    inherit architecture;
    config.Cmd = [ "/nix/store" ];
    created = "1970-01-01T00:00:01+00:00";
    customisation_layer = customisation;
    from_image = null;
    gid = "0";
    gname = "root";
    mtime = "1970-01-01T00:00:01+00:00";
    os = "linux";
    repo_tag = "app:latest";
    store_dir = builtins.storeDir;
    store_layers = map (map package) layers;
    uid = "0";
    uname = "root";
  }
  // description;

  conf = run "app-conf.json" ''printf '%s' "$json" > "$out"'' {
    json = builtins.toJSON (removeAttrs fields omit);
  };

  script = run "stream" ''cp "$source" "$out"; chmod +x "$out"'' { source = ./stream.py; };

  # What makeWrapper writes.
  stream =
    run "stream-app" ''printf '#! /bin/sh -e\nexec "%s"  %s "$@" \n' "$script" "$conf" > "$out"; chmod +x "$out"'' {
      inherit script conf;
    }
    // {
      inherit conf;
    };
in
run "app.tar.gz" "${stream} | gzip -n > $out" { } // { inherit stream; }
