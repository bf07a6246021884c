"""The files of the image: the program, the libraries that it needs, and their licences.

The libraries are those of the Debian system on which the program was built, or of one in a directory,
for another architecture.
"""

import re
import subprocess
from pathlib import Path

import elf

TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
# The packages whose libraries may be in the image, with their licences. Another library is an error,
# so that none gets into the image unnoticed.
LICENCES = {
    "libc6": "LGPL-2.1-or-later",
    "libgcc-s1": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "libmnl0": "LGPL-2.1-or-later",
    "libnftnl11": "GPL-2.0-or-later",
}
COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.-]*[A-Za-z0-9])")


class Refused(Exception):
    """The image cannot be made of what was given."""


def collect(binary, architecture, root, licence):
    """The files of the image, as mode and content by path, and the packages of the libraries."""
    program = elf.read(binary)
    if program.architecture != architecture:
        raise Refused(f"{binary} is for {program.architecture}, not for {architecture}")
    if program.interpreter is None:
        raise Refused(f"{binary} has no dynamic loader: only a dynamically linked program is expected")
    files = {
        "usr/bin/rulec": (0o755, binary.read_bytes()),
        "usr/share/doc/rulec/copyright": (0o644, licence.read_bytes()),
        # For the names of users in listings, and for the order in which names of hosts are looked up.
        "etc/passwd": (0o644, b"root:x:0:0:root:/:/sbin/nologin\n"),
        "etc/group": (0o644, b"root:x:0:\n"),
        "etc/nsswitch.conf": (0o644, b"hosts: files dns\n"),
        # A name may have several addresses in /etc/hosts, as with `hostAliases` of a Pod: without this,
        # only the first one is found.
        "etc/host.conf": (0o644, b"multi on\n"),
    }
    directory = f"usr/lib/{TRIPLETS[architecture]}"
    loader = Path(program.interpreter).name
    packages = set()
    for name, path in libraries(program, architecture, root).items():
        target = program.interpreter.lstrip("/") if name == loader else f"{directory}/{name}"
        files[target] = (0o755, path.read_bytes())
        packages.add(package_of(name, architecture, root))
    for package in sorted(packages):
        if package not in LICENCES:
            raise Refused(f"the library of {package} is new: its licence must be named in {__file__}")
        add_copyright(files, package, root)
    lines = [f"{package} {version(package, architecture, root)}\n" for package in sorted(packages)]
    files["usr/share/doc/rulec/libraries"] = (0o644, "".join(lines).encode())
    return files, sorted(packages)


def libraries(program, architecture, root):
    """Where the libraries are that a program needs, and those that they need, by name."""
    triplet = TRIPLETS[architecture]
    found = {}
    left = [Path(program.interpreter).name, *program.needed]
    while left:
        name = left.pop()
        if name in found:
            continue
        places = [root / directory / triplet / name for directory in ("usr/lib", "lib")]
        place = next((it for it in places if it.exists()), None)
        if place is None:
            raise Refused(f"{name} is in none of {', '.join(map(str, places))}")
        library = elf.read(place)
        if library.architecture != architecture:
            raise Refused(f"{place} is for {library.architecture}, not for {architecture}")
        found[name] = place
        left += library.needed
    return found


def dpkg_query(root, *arguments):
    command = ["dpkg-query", f"--admindir={root / 'var/lib/dpkg'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def package_of(name, architecture, root):
    """The Debian package that a library belongs to."""
    triplet = TRIPLETS[architecture]
    for directory in ("/usr/lib", "/lib"):
        ran = dpkg_query(root, "--search", f"{directory}/{triplet}/{name}")
        if ran.returncode == 0:
            return ran.stdout.split(":")[0]
    raise Refused(f"no package in {root} has {name}: its licence would be missing in the image")


def version(package, architecture, root):
    ran = dpkg_query(root, "--show", "--showformat=${Version}", f"{package}:{architecture}")
    if ran.returncode != 0:
        raise Refused(f"dpkg-query: {ran.stderr.strip()}")
    return ran.stdout


def add_copyright(files, package, root):
    """Adds the copyright file of a package, and the texts of licences to which it refers."""
    path = root / "usr/share/doc" / package / "copyright"
    if not path.exists():
        raise Refused(f"{path} is missing: the image must contain it")
    text = path.read_bytes()
    files[f"usr/share/doc/{package}/copyright"] = (0o644, text)
    for name in COMMON.findall(text.decode(errors="replace")):
        place = root / "usr/share/common-licenses" / name
        if not place.exists():
            raise Refused(f"{path} refers to {place}, which is missing")
        files[f"usr/share/common-licenses/{name}"] = (0o644, place.read_bytes())
