# An image of a small "hello" program, in five formats. The builders only pack files with the machine's tar, so they need
# no emulation for any system.
{
  system,
  architecture,
  layered ? false,
}:
let
  shell =
    name: args: environment:
    derivation (
      environment
      // {
        inherit name system args;
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
      }
    );
  script = name: text: shell name [ "-euc" text ] { };

  tar = "tar --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner -c";

  hello = script "hello" ''
    mkdir -p $out/bin
    printf '#!/bin/sh\necho "Hello from ${system}"\n' > $out/bin/hello
    chmod 755 $out/bin/hello
  '';

  # The content of the archive, as a folder.
  content = shell "image-content" [ ./make-image.sh ] { inherit architecture hello layered tar; };

  # Files are named after their hashes. manifest.json comes last, as in Nix's layered images.
  pack = "cd ${content} && ${tar} [0-9a-f]* manifest.json";

  ociLayout = shell "oci-layout-hello" [ ./make-layout.sh ] { inherit content; };
in
{
  inherit ociLayout;

  ociArchive = script "oci-archive-hello.tar" "${tar} -C ${ociLayout} . > $out";

  tar = script "docker-image-hello.tar" "${pack} > $out";

  tarGz = script "${if layered then "hello" else "docker-image-hello"}.tar.gz" "(${pack}) | gzip -n > $out";

  stream = script "stream-hello" ''
    cat > $out <<'end'
    #!/bin/sh
    echo 'Adding manifests...' >&2
    ${pack}
    end
    chmod 755 $out
  '';
}
