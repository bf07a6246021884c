"""Writes an OCI image layout as a tar archive. The same content makes the same bytes."""

import gzip
import hashlib
import io
import json
import tarfile
from datetime import datetime, timezone
from pathlib import PurePosixPath

IMAGE = "application/vnd.oci.image"


class Layout:
    """The blobs of a layout."""

    def __init__(self, epoch):
        """Takes the time, in seconds since 1970, that everything bears."""
        self.epoch = epoch
        self.created = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.blobs = {}

    def add(self, media_type, data):
        """Adds a blob, and returns its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def add_json(self, media_type, value):
        return self.add(media_type, json.dumps(value, sort_keys=True).encode())

    def add_image(self, architecture, files, entrypoint, labels):
        """Adds an image of one layer, and returns the descriptor of its manifest."""
        layer = archive(files, self.epoch)
        labels = {**labels, "org.opencontainers.image.created": self.created}
        config = {
            "architecture": architecture,
            "os": "linux",
            "created": self.created,
            "config": {
                "User": "0:0",
                "Env": ["PATH=/usr/bin"],
                "Entrypoint": entrypoint,
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
            "history": [{"created": self.created, "created_by": "deploy/image/build"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{IMAGE}.manifest.v1+json",
            "config": self.add_json(f"{IMAGE}.config.v1+json", config),
            # The header of gzip has the time 0 and no name.
            "layers": [self.add(f"{IMAGE}.layer.v1.tar+gzip", gzip.compress(layer, 9, mtime=0))],
            "annotations": labels,
        }
        descriptor = self.add_json(f"{IMAGE}.manifest.v1+json", manifest)
        return {**descriptor, "platform": {"architecture": architecture, "os": "linux"}}

    def add_index(self, images, labels):
        """Adds the index of the images for all architectures, and returns its descriptor."""
        index = {
            "schemaVersion": 2,
            "mediaType": f"{IMAGE}.index.v1+json",
            "manifests": images,
            "annotations": labels,
        }
        return self.add_json(f"{IMAGE}.index.v1+json", index)

    def tar(self, descriptor, name):
        """The layout with one named image."""
        reference = {"org.opencontainers.image.ref.name": name}
        index = {"schemaVersion": 2, "manifests": [{**descriptor, "annotations": reference}]}
        files = {
            **self.blobs,
            "index.json": json.dumps(index, sort_keys=True).encode(),
            "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        }
        return archive({path: (0o644, data) for path, data in files.items()}, self.epoch)


def archive(files, epoch):
    """A tar archive of files, by path, with the directories above them, all of them root's."""
    directories = {parent for path in files for parent in map(str, PurePosixPath(path).parents)}
    entries = {path: None for path in directories - {"."}} | files
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, file in sorted(entries.items()):
            entry = tarfile.TarInfo(path)
            entry.mtime = epoch
            if file is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            else:
                entry.mode, data = file
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
