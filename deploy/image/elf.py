"""What an ELF file needs to be loaded."""

import struct
from dataclasses import dataclass

MACHINES = {62: "amd64", 183: "arm64"}
LOAD, DYNAMIC, INTERPRETER = 1, 2, 3
NEEDED, STRING_TABLE = 1, 5


@dataclass
class Elf:
    architecture: str
    # The path of the dynamic loader; none in a library.
    interpreter: str | None
    # The names of the libraries that are loaded with it.
    needed: list[str]


def read(path):
    """Reads the program headers of a 64-bit little-endian file."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path}: not a 64-bit little-endian ELF file")
    (machine,) = struct.unpack_from("<H", data, 18)
    if machine not in MACHINES:
        raise ValueError(f"{path}: machine {machine} is none of {list(MACHINES.values())}")
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + size * i) for i in range(count)]
    loaded = [(address, length, at) for kind, _, at, address, _, length in headers if kind == LOAD]

    def text(at):
        return data[at : data.index(b"\0", at)].decode()

    def in_file(address):
        for start, length, at in loaded:
            if start <= address < start + length:
                return address - start + at
        raise ValueError(f"{path}: address {address:#x} is in no segment")

    interpreter, dynamic = None, []
    for kind, _, at, _, _, length in headers:
        if kind == INTERPRETER:
            interpreter = text(at)
        elif kind == DYNAMIC:
            dynamic = list(struct.iter_unpack("<qQ", data[at : at + length - length % 16]))
    tables = [in_file(value) for tag, value in dynamic if tag == STRING_TABLE]
    needed = [text(tables[0] + value) for tag, value in dynamic if tag == NEEDED]
    return Elf(MACHINES[machine], interpreter, needed)


def section(path, name):
    """The content of a section, or none."""
    data = path.read_bytes()
    (offset,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + size * i) for i in range(count)]
    for title, _, _, _, at, length in headers:
        start = headers[names][4] + title
        if data[start : data.index(b"\0", start)].decode() == name:
            return data[at : at + length]
    return None
