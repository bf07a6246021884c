"""The image of deploy/image: the same bytes each time, and podman runs it as the DaemonSet does.

The variable RULEC names the program. The tests that run the image need root: all of podman runs in
namespaces of its own, without the network of this machine.
"""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "deploy/image"))

import oci  # noqa: E402

BUILD = ROOT / "deploy/image/build"
RULEC = os.environ["RULEC"]
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def build(output, *arguments, **environment):
    command = [BUILD, "--output", output, *arguments]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


class Blobs:
    """The content of an OCI layout."""

    def __init__(self, data):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            self.files = {it.name: tar.extractfile(it).read() for it in tar if it.isfile()}

    def json(self, descriptor):
        return json.loads(self.bytes(descriptor))

    def bytes(self, descriptor):
        data = self.files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
        assert len(data) == descriptor["size"]
        return data

    def index(self):
        (descriptor,) = json.loads(self.files["index.json"])["manifests"]
        return self.json(descriptor)


class Built(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.path = cls.directory / "image.oci.tar"
        ran = build(cls.path, f"{NATIVE}={RULEC}", "--source", "https://forge.example/rulec")
        assert ran.returncode == 0, ran.stderr
        cls.blobs = Blobs(cls.path.read_bytes())

    def test_the_same_input_makes_the_same_bytes(self):
        again = self.directory / "again.oci.tar"
        copy = self.directory / "elsewhere"
        shutil.copy(RULEC, copy)
        build(again, f"{NATIVE}={copy}", "--source", "https://forge.example/rulec", TZ="Asia/Tokyo")
        self.assertTrue(again.read_bytes() == self.path.read_bytes())
        later = self.directory / "later.oci.tar"
        build(later, f"{NATIVE}={RULEC}", SOURCE_DATE_EPOCH="1700000001")
        self.assertFalse(later.read_bytes() == self.path.read_bytes())

    def test_the_labels_name_version_revision_and_licences(self):
        (image,) = self.blobs.index()["manifests"]
        config = self.blobs.json(self.blobs.json(image)["config"])
        labels = config["config"]["Labels"]
        head = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True).strip()
        wanted = {"revision": head, "created": "2023-11-14T22:13:20Z", "title": "rulec"}
        wanted["source"] = "https://forge.example/rulec"
        for name, value in wanted.items():
            self.assertEqual(labels[f"org.opencontainers.image.{name}"], value)
        self.assertIn("GPL-2.0-or-later", labels["org.opencontainers.image.licenses"])
        self.assertIn(labels["org.opencontainers.image.version"], (ROOT / "Cargo.toml").read_text())
        self.assertEqual(config["config"]["Entrypoint"], ["/usr/bin/rulec"])

    def test_every_file_is_roots_and_every_library_has_its_licence(self):
        (image,) = self.blobs.index()["manifests"]
        (layer,) = self.blobs.json(image)["layers"]
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(self.blobs.bytes(layer)))) as tar:
            entries = tar.getmembers()
            libraries = tar.extractfile("usr/share/doc/rulec/libraries").read().decode()
            self.assertEqual(tar.extractfile("etc/host.conf").read(), b"multi on\n")
        names = [entry.name for entry in entries]
        self.assertEqual(names, sorted(names))
        for entry in entries:
            self.assertEqual((entry.uid, entry.gid, entry.mtime), (0, 0, 1700000000), entry.name)
            self.assertIn(entry.mode, (0o755, 0o644), entry.name)
        for line in libraries.splitlines():
            self.assertIn(f"usr/share/doc/{line.split()[0]}/copyright", names)
        self.assertIn("libnftnl11 ", libraries)

    def test_an_index_has_one_image_for_each_architecture(self):
        layout = oci.Layout(1700000000)
        files = {"usr/bin/rulec": (0o755, b"a program")}
        images = [layout.add_image(it, files, ["/usr/bin/rulec"], {}) for it in ("amd64", "arm64")]
        blobs = Blobs(layout.tar(layout.add_index(images, {}), "1"))
        found = [it["platform"]["architecture"] for it in blobs.index()["manifests"]]
        self.assertEqual(found, ["amd64", "arm64"])
        for image in blobs.index()["manifests"]:
            config = blobs.json(blobs.json(image)["config"])
            self.assertEqual(config["architecture"], image["platform"]["architecture"])

    def test_what_cannot_be_an_image_is_refused(self):
        other = {"amd64": "arm64", "arm64": "amd64"}[NATIVE]
        script = self.directory / "script"
        script.write_text("#!/bin/sh\n")
        empty = self.directory / "empty"
        empty.mkdir()
        cases = [
            ([f"{other}={RULEC}"], f"is for {NATIVE}, not for {other}"),
            ([f"{NATIVE}={script}"], "not a 64-bit little-endian ELF file"),
            ([f"{NATIVE}={self.directory}/none"], "No such file"),
            ([f"{NATIVE}={RULEC}", "--root", f"{NATIVE}={empty}"], "is in none of"),
            ([f"{NATIVE}={RULEC}", "--root", f"{other}=/"], f"--root is given for {other}"),
            ([f"{NATIVE}={RULEC}", f"{NATIVE}={RULEC}"], "given twice"),
            ([f"sparc={RULEC}"], "is not ARCH=PATH"),
        ]
        for arguments, reason in cases:
            with self.subTest(arguments):
                ran = build(self.directory / "refused", *arguments)
                self.assertNotEqual(ran.returncode, 0)
                self.assertIn(reason, ran.stderr)
                self.assertFalse((self.directory / "refused").exists())
        ran = build(self.directory / "refused", f"{NATIVE}={RULEC}", SOURCE_DATE_EPOCH="today")
        self.assertIn("SOURCE_DATE_EPOCH=today is not a number", ran.stderr)

    @unittest.skipIf(os.geteuid() != 0 and not os.environ.get("CI"), "needs root")
    def test_podman_runs_it_with_the_rights_of_the_daemon_set(self):
        here = Path(__file__).resolve().parent
        options = self.directory / "options"
        options.write_text("".join(f"{it}\n" for it in daemon_set_options()))
        unshare = "unshare --net --mount --pid --fork --kill-child --mount-proc".split()
        command = [*unshare, here / "run.sh", self.path, options]
        started = time.monotonic()
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
        said = f"{ran.stdout}{ran.stderr} after {time.monotonic() - started:.0f} s"
        self.assertEqual(ran.returncode, 0, said)
        facts = json.loads(ran.stdout)
        # CAP_NET_ADMIN is bit 12; 2 is a filter of system calls.
        self.assertEqual(facts["status"]["CapEff"], f"{1 << 12:016x}")
        self.assertEqual(facts["status"]["CapBnd"], f"{1 << 12:016x}")
        self.assertEqual(facts["status"]["NoNewPrivs"], "1")
        self.assertEqual(facts["status"]["Seccomp"], "2")
        self.assertIn("10.96.0.10 . tcp . 80", facts["table"])
        self.assertIn("the kernel is in sync with all sources", facts["said"])
        self.assertTrue(facts["root"].startswith("ro,"), facts["root"])


def daemon_set_options():
    """What podman must be told to give the daemon's container the rights that Kubernetes gives it."""
    (found,) = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/daemonset.yaml").read_text())
    pod = found["spec"]["template"]["spec"]
    # The filter of system calls is podman's default, too.
    assert pod["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    (daemon,) = pod["containers"]
    rights = dict(daemon["securityContext"])
    options = [f"--user={rights.pop('runAsUser')}:{rights.pop('runAsGroup')}"]
    if not rights.pop("allowPrivilegeEscalation"):
        options.append("--security-opt=no-new-privileges")
    if rights.pop("readOnlyRootFilesystem"):
        options += ["--read-only", "--read-only-tmpfs=false"]
    capabilities = rights.pop("capabilities")
    options += [f"--cap-drop={name}" for name in capabilities["drop"]]
    options += [f"--cap-add={name}" for name in capabilities["add"]]
    assert not rights, f"{rights} is not understood"
    return options


if __name__ == "__main__":
    unittest.main(verbosity=2)
