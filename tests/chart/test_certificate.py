"""The commands of the README of deploy/kubernetes make a certificate by which nodes know a relay.

They need OpenSSL 3: without it, the tests say that they did not run.
"""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

README = Path(__file__).resolve().parent.parent.parent / "deploy/kubernetes/README.md"
NAME = "rulec-relay.kube-system.svc"
# Says what a cluster would be told, if the files are there.
KUBECTL = """
kubectl() {
    echo "$*"
    for it in "$@"; do
        case $it in --cert=* | --key=* | --from-file=*) test -s "${it#*=}" || return 1 ;; esac
    done
}
"""


def commands():
    """The block of commands that begins with openssl."""
    (block,) = re.findall(r"^```sh\n(openssl .*?)^```", README.read_text(), re.M | re.S)
    return block


def run(*command, directory):
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


class Certificate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            version = subprocess.check_output(["openssl", "version"], text=True)
        except FileNotFoundError:
            version = "no OpenSSL"
        if not re.match(r"OpenSSL ([3-9]|\d\d)\.", version):
            raise unittest.SkipTest(f"this is {version.strip()}")
        cls.directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.made = run("bash", "-ec", KUBECTL + commands(), directory=cls.directory)

    def verify(self, *options):
        command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", *options, "tls.crt"]
        return run(*command, directory=self.directory)

    def test_it_becomes_what_the_manifests_name(self):
        self.assertEqual(self.made.returncode, 0, self.made.stderr)
        wanted = [
            "-n kube-system create secret tls rulec-relay --cert=tls.crt --key=tls.key",
            "-n kube-system create configmap rulec-relay-ca --from-file=ca.crt",
        ]
        self.assertEqual(self.made.stdout.splitlines(), wanted)

    def test_it_is_a_servers_of_that_name_and_no_other(self):
        verified = self.verify("-purpose", "sslserver", "-verify_hostname", NAME)
        self.assertEqual(verified.returncode, 0, verified.stderr)
        for wrong in [
            ["-verify_hostname", "relay.example"],
            ["-purpose", "sslclient"],
        ]:
            self.assertNotEqual(self.verify(*wrong).returncode, 0, wrong)

    def test_its_key_is_the_one_of_the_secret(self):
        of_certificate = ["openssl", "x509", "-in", "tls.crt", "-noout", "-pubkey"]
        of_key = ["openssl", "pkey", "-in", "tls.key", "-pubout"]
        keys = [run(*it, directory=self.directory).stdout for it in (of_certificate, of_key)]
        self.assertIn("PUBLIC KEY", keys[0])
        self.assertEqual(keys[0], keys[1])


if __name__ == "__main__":
    unittest.main(verbosity=2)
