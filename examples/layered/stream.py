#!/usr/bin/env python3
"""Streams a container image, as the script of dockerTools.streamLayeredImage does.

Reads the description (the JSON file that is the first argument), and writes a docker archive to standard output.
"""

import hashlib
import io
import json
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path


class Digest:
    """A stream that hashes and counts what is written to it."""

    def __init__(self):
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data):
        self.sha256.update(data)
        self.size += len(data)


def write_layer(stream, store_paths, store_mode, attributes):
    with tarfile.open(fileobj=stream, mode="w|") as tar:
        for name in ("/nix", "/nix/store"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            info.mode = store_mode
            tar.addfile(with_attributes(info, attributes))
        for store_path in map(Path, store_paths):
            below = [] if store_path.is_symlink() else store_path.rglob("*")
            for path in sorted([store_path, *below]):
                info = tar.gettarinfo(path)
                info.name = "/" + info.name
                if info.islnk():
                    info.type = tarfile.REGTYPE
                    info.linkname = ""
                    info.size = path.stat().st_size
                with_attributes(info, attributes)
                if info.isreg():
                    with open(path, "rb") as file:
                        tar.addfile(info, file)
                else:
                    tar.addfile(info)


def with_attributes(info, attributes):
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def parse_date(text):
    return datetime.now(timezone.utc) if text == "now" else datetime.fromisoformat(text)


def add_bytes(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def base_layers(tar, archive):
    """Copies the layers of the base image. Returns its config, and the digest and path of each layer."""
    if archive is None:
        return {}, []
    with tarfile.open(archive) as base:
        manifest = json.load(base.extractfile("manifest.json"))[0]
        image = json.load(base.extractfile(manifest["Config"]))
        for name in manifest["Layers"]:
            tar.addfile(base.getmember(name), base.extractfile(name))
    digests = [diff_id.removeprefix("sha256:") for diff_id in image["rootfs"]["diff_ids"]]
    return image["config"], [(digest, name, [name]) for digest, name in zip(digests, manifest["Layers"])]


def merged_config(config, base):
    env = {entry.split("=", 1)[0]: entry for entry in base.get("Env", []) + config.get("Env", [])}
    return {**config, "Env": list(env.values())} if env and base else config


def main():
    conf = json.loads(Path(sys.argv[1]).read_text())
    created = parse_date(conf["created"]).isoformat()
    # Older versions of nixpkgs do not describe the attributes of files.
    store_mode = 0o755 if "mtime" in conf else 0o555
    attributes = {
        "mtime": int(parse_date(conf.get("mtime", conf["created"])).timestamp()),
        "uid": int(conf.get("uid", 0)),
        "gid": int(conf.get("gid", 0)),
        "uname": conf.get("uname", "root"),
        "gname": conf.get("gname", "root"),
    }
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        base, layers = base_layers(tar, conf["from_image"])
        for store_paths in conf["store_layers"]:
            # Once for the digest and the size, which the header of the layer needs, and once for the content.
            digest = Digest()
            write_layer(digest, store_paths, store_mode, attributes)
            name = f"{digest.sha256.hexdigest()}/layer.tar"
            info = tarfile.TarInfo(name)
            info.size = digest.size
            tar.fileobj.write(info.tobuf())
            tar.offset += 512
            write_layer(tar.fileobj, store_paths, store_mode, attributes)
            tar.offset += digest.size
            layers.append((digest.sha256.hexdigest(), name, store_paths))
        customisation = Path(conf["customisation_layer"])
        checksum = (customisation / "checksum").read_text().strip()
        layers.append((checksum, f"{checksum}/layer.tar", [str(customisation)]))
        tar.add(customisation / "layer.tar", f"{checksum}/layer.tar")

        config = json.dumps(
            {
                "created": created,
                "architecture": conf["architecture"],
                "os": "linux",
                "config": merged_config(conf["config"], base),
                "rootfs": {"diff_ids": [f"sha256:{digest}" for digest, _, _ in layers], "type": "layers"},
                "history": [{"created": created, "comment": f"store paths: {paths}"} for _, _, paths in layers],
            },
            indent=4,
        ).encode()
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        add_bytes(tar, config_name, config)
        manifest = {"Config": config_name, "RepoTags": [conf["repo_tag"]], "Layers": [name for _, name, _ in layers]}
        add_bytes(tar, "manifest.json", json.dumps([manifest], indent=4).encode())


if __name__ == "__main__":
    main()
