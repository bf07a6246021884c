"""What deploy/release makes of programs that are built: bills of materials, checksums, the chart.

The variable RULEC names the program.
"""

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import unittest
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RELEASE = ROOT / "deploy/release"
RULEC = os.environ["RULEC"]
VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def run(*command, **environment):
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def component(name, version):
    reference = f"path+file://{ROOT}#{name}@{version}"
    return {"type": "library", "bom-ref": reference, "name": name, "version": version}


class Release(unittest.TestCase):
    def setUp(self):
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        crates = [component("serde", "1.0.1"), component("tokio", "1.54.0")]
        own = component("rulec", "0.1.0")
        dependencies = [{"ref": own["bom-ref"], "dependsOn": [it["bom-ref"] for it in crates]}]
        bill = {"metadata": {"component": own}, "components": crates, "dependencies": dependencies}
        self.crates = self.directory / "crates.json"
        self.crates.write_text(json.dumps(bill))

    def program(self, *crates):
        """The program as cargo-auditable would have built it, of these crates."""
        packages = [{"name": name, "version": version, "kind": kind} for name, version, kind in crates]
        section = self.directory / "section"
        section.write_bytes(zlib.compress(json.dumps({"packages": packages}).encode()))
        path = self.directory / "rulec"
        subprocess.run(["objcopy", f"--add-section=.dep-v0={section}", RULEC, path], check=True)
        return path

    def bill(self, program):
        output = self.directory / "bill.json"
        arguments = ["--crates", self.crates, "--output", output, f"{NATIVE}={program}"]
        return run(RELEASE / "sbom", *arguments), output

    def test_the_bill_has_the_libraries_and_no_path_of_this_machine(self):
        program = self.program(("rulec", "0.1.0", "runtime"), ("tokio", "1.54.0", "runtime"))
        ran, output = self.bill(program)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertNotIn(str(ROOT), output.read_text())
        bill = json.loads(output.read_text())
        names = [it["name"] for it in bill["components"]]
        self.assertEqual(names, ["serde", "tokio", "libc6", "libgcc-s1", "libmnl0", "libnftnl11"])
        library = bill["components"][-1]
        version = run("dpkg-query", "--show", "--showformat=${Version}", "libnftnl11").stdout
        self.assertEqual(library["version"], version)
        self.assertEqual(library["purl"], f"pkg:deb/debian/libnftnl11@{version}?arch={NATIVE}")
        self.assertIn(library["bom-ref"], bill["dependencies"][0]["dependsOn"])

    def test_a_crate_that_the_bill_does_not_have_is_an_error(self):
        program = self.program(("tokio", "1.54.1", "runtime"), ("cc", "1.0.0", "build"))
        ran, output = self.bill(program)
        self.assertNotEqual(ran.returncode, 0)
        self.assertIn("has crates that the bill of materials has not: tokio 1.54.1", ran.stderr)
        self.assertFalse(output.exists())

    def test_a_program_without_a_list_of_crates_is_an_error(self):
        ran, _ = self.bill(RULEC)
        self.assertIn("has no section .dep-v0: build it with cargo auditable", ran.stderr)

    def built(self):
        """A directory with what is built for this architecture."""
        dist = self.directory / "dist"
        built = dist / NATIVE
        built.mkdir(parents=True)
        shutil.copy(RULEC, built / "rulec")
        (built / f"rulec_0.1.0-1_{NATIVE}.deb").write_text("a package\n")
        (built / f"rulec_{NATIVE}.cdx.json").write_text("{}\n")
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=True)
        (built / "commit").write_bytes(head.stdout)
        return dist

    def test_a_release_has_every_file_with_its_checksum(self):
        dist = self.built()
        ran = run(RELEASE / "assemble", dist)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        release = dist / "release"
        wanted = [
            "SHA256SUMS",
            f"rulec-{VERSION}.oci.tar",
            f"rulec-{VERSION}.tgz",
            f"rulec_0.1.0-1_{NATIVE}.deb",
            f"rulec_{VERSION}_{NATIVE}.cdx.json",
        ]
        self.assertEqual(sorted(it.name for it in release.iterdir()), sorted(wanted))
        check = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release)
        self.assertEqual(check.returncode, 0)
        sums = (release / "SHA256SUMS").read_text()
        self.assertEqual(sums.count("\n"), len(wanted) - 1)
        run(RELEASE / "assemble", dist)
        self.assertEqual((release / "SHA256SUMS").read_text(), sums)

    def test_the_chart_is_packed_as_it_is(self):
        dist = self.built()
        run(RELEASE / "assemble", dist)
        chart = ROOT / "deploy/helm/rulec"
        files = [it for it in chart.rglob("*") if it.is_file()]
        wanted = {str(it.relative_to(chart.parent)): it.read_bytes() for it in files}
        packed = (dist / f"release/rulec-{VERSION}.tgz").read_bytes()
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            found = {it.name: tar.extractfile(it).read() for it in tar if it.isfile()}
        self.assertEqual(found, wanted)

    def test_what_is_of_another_commit_is_no_part_of_a_release(self):
        dist = self.built()
        (dist / NATIVE / "commit").write_text("0" * 40 + "\n")
        ran = run(RELEASE / "assemble", dist)
        self.assertNotEqual(ran.returncode, 0)
        self.assertIn(f"{NATIVE} is of another commit: build it again", ran.stderr)

    def test_nothing_built_is_no_release(self):
        ran = run(RELEASE / "assemble", self.directory)
        self.assertNotEqual(ran.returncode, 0)
        self.assertIn("nothing is built in", ran.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
