# Creates an OCI layout in $out from the image files in $content, with compressed layers. image.nix runs it.
set -eu
umask 022
mkdir -p "$out/blobs/sha256"

# add_blob <media type> <file>: adds a blob and prints its descriptor
add_blob() {
  digest=$(sha256sum "$2" | cut -d ' ' -f 1)
  cp "$2" "$out/blobs/sha256/$digest"
  printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%d}' "$1" "$digest" "$(wc -c < "$2")"
}

layers=''
for layer in $(grep -o '[0-9a-f]*/layer.tar' "$content/manifest.json"); do
  gzip -n < "$content/$layer" > layer.tar.gz
  layers="$layers${layers:+,}$(add_blob layer.v1.tar+gzip layer.tar.gz)"
done
config=$(add_blob config.v1+json "$content"/[0-9a-f]*.json)

cat > manifest.json <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":$config,"layers":[$layers]}
END
cat > "$out/index.json" <<END
{"schemaVersion":2,"manifests":[$(add_blob manifest.v1+json manifest.json)]}
END
echo '{"imageLayoutVersion":"1.0.0"}' > "$out/oci-layout"
