"""The workflows of the repository: pinned, with few rights, and their scripts parse.

TEST_ASSET_ACTIONLINT names a program that looks closer: without it, a test says that it did not run.
"""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = sorted((ROOT / ".github/workflows").iterdir())
# `on` is a truth value in YAML 1.1.
WORKFLOWS = {it.name: yaml.safe_load(it.read_text()) for it in FILES}


def jobs():
    for name, workflow in WORKFLOWS.items():
        for job, content in workflow["jobs"].items():
            yield f"{name}: {job}", content


def scripts():
    for name, job in jobs():
        for step in job["steps"]:
            if "run" in step:
                yield f"{name}: {step['name']}", step["run"]


class Workflows(unittest.TestCase):
    def test_every_action_is_pinned_to_a_commit_with_its_version(self):
        pinned = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
        found = 0
        for file in FILES:
            for line in file.read_text().splitlines():
                if re.search(r"\buses:", line):
                    found += 1
                    self.assertRegex(line, pinned, file.name)
        self.assertGreater(found, 5)

    def test_every_job_names_its_rights_and_one_may_write(self):
        writing = []
        for name, job in jobs():
            self.assertIn("permissions", job, name)
            if "write" in job["permissions"].values():
                writing.append(name)
        self.assertEqual(writing, ["release.yaml: publish"])
        self.assertEqual(WORKFLOWS["release.yaml"]["permissions"], {})

    def test_no_credential_stays_after_a_checkout_of_the_release(self):
        for name, job in jobs():
            for step in job["steps"]:
                if name.startswith("release.yaml") and "actions/checkout" in step.get("uses", ""):
                    self.assertIs(step["with"]["persist-credentials"], False, name)

    def test_the_job_that_may_write_builds_nothing(self):
        publish = WORKFLOWS["release.yaml"]["jobs"]["publish"]
        for step in publish["steps"]:
            self.assertNotRegex(step.get("run", ""), r"\b(cargo|make|pip|npm|apt-get)\b")

    def test_the_scripts_parse_and_what_they_call_exists(self):
        found = 0
        for name, script in scripts():
            with self.subTest(name):
                # An expression is replaced before the shell sees the script.
                plain = re.sub(r"\$\{\{.*?\}\}", "x", script)
                subprocess.run(["bash", "-n"], input=plain, text=True, check=True)
                for path in re.findall(r"(?:^|\s)((?:deploy|\.ci)/[\w./-]+)", plain):
                    found += 1
                    self.assertTrue((ROOT / path).exists(), path)
                for target in re.findall(r"\bmake ([\w-]+)", plain):
                    self.assertRegex((ROOT / "Makefile").read_text(), rf"(?m)^{target}:")
        self.assertGreater(found, 5)

    def test_no_script_contains_what_others_can_write(self):
        # An expression with a name of a branch or a title would be a way to run commands.
        allowed = {"matrix.architecture"}
        for name, script in scripts():
            found = set(re.findall(r"\$\{\{\s*(.*?)\s*\}\}", script))
            self.assertLessEqual(found, allowed, name)

    def test_the_architectures_are_those_of_the_image(self):
        build = WORKFLOWS["release.yaml"]["jobs"]["build"]
        found = [it["architecture"] for it in build["strategy"]["matrix"]["include"]]
        script = next(script for name, script in scripts() if "sign the image" in name)
        self.assertIn(f"for architecture in {' '.join(found)}; do", script)
        assemble = (ROOT / "deploy/release/assemble").read_text()
        self.assertIn(f"for architecture in {' '.join(found)}; do", assemble)

    def test_actionlint_finds_nothing(self):
        program = os.environ.get("TEST_ASSET_ACTIONLINT")
        if not program:
            self.skipTest("TEST_ASSET_ACTIONLINT names none")
        ran = subprocess.run([program, *FILES], capture_output=True, text=True)
        self.assertEqual((ran.returncode, ran.stdout), (0, ""), ran.stderr)


class Notes(unittest.TestCase):
    def notes(self, version, text):
        path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "CHANGELOG.md"
        path.write_text(text)
        command = [ROOT / "deploy/release/notes", version, path]
        return subprocess.run(command, capture_output=True, text=True)

    def test_the_notes_are_the_section_of_the_version(self):
        version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
        text = f"# Changelog\n## [Unreleased]\nNew.\n## [{version}] - 2026-01-01\nThis.\n## [0.0.1]\nOld.\n"
        ran = self.notes(version, text)
        self.assertEqual((ran.returncode, ran.stdout.strip()), (0, "This."))
        ran = self.notes(version, text.replace(f"[{version}]", "[9.9.9]"))
        self.assertIn(f"says nothing of {version}", ran.stderr)
        self.assertNotEqual(ran.returncode, 0)
        ran = self.notes("9.9.9", text)
        self.assertIn(f"Cargo.toml has the version {version}, not 9.9.9", ran.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
