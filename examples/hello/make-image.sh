# Creates the content of a Docker image archive in $out: the layers, the config and manifest.json. image.nix runs it and
# sets $tar, $hello, $architecture and $layered.
set -eu
umask 022
created=1970-01-01T00:00:01Z
diff_ids='' layers='' history=''

# add_layer <arguments for tar>
add_layer() {
  $tar -f layer.tar "$@"
  id=$(sha256sum layer.tar | cut -d ' ' -f 1)
  mkdir "$out/$id"
  mv layer.tar "$out/$id"
  diff_ids="$diff_ids${diff_ids:+,}\"sha256:$id\""
  layers="$layers${layers:+,}\"$id/layer.tar\""
  history="$history${history:+,}{\"created\":\"$created\",\"comment\":\"store paths: ['$hello']\"}"
}

mkdir "$out" bin
ln -s "$hello/bin/hello" bin/hello
if [ "$layered" ]; then
  add_layer -C / "${hello#/}"
  add_layer bin
else
  add_layer -C / "${hello#/}" -C "$PWD" bin
fi

cat > config.json <<END
{"architecture":"$architecture","os":"linux","created":"$created","config":{"Cmd":["/bin/hello"],"Labels":{"org.opencontainers.image.title":"nix-image-action-example"}},"rootfs":{"type":"layers","diff_ids":[$diff_ids]},"history":[$history]}
END
config=$(sha256sum config.json | cut -d ' ' -f 1).json
mv config.json "$out/$config"

cat > "$out/manifest.json" <<END
[{"Config":"$config","RepoTags":["hello:nix"],"Layers":[$layers]}]
END
