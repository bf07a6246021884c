#!/usr/bin/env python3
"""Counts what the hot paths need, and compares it with the baseline; .ci/instructions runs it."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BASELINE = ROOT / "benches/instructions/baseline.toml"
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release/rulec-instructions"

# How far the instructions may be from the baseline. Allocations may not be at all.
TOLERANCE = 3.0

WRITE = ".ci/instructions --write"
COUNTS = ("instructions", "allocations", "bytes")

# The C library chooses its functions for memory and strings by the processor, and the lengths from
# which it uses others by the size of the processor's caches. Callgrind shows the program most
# features of the processor that it runs on.
TUNABLES = ":".join(
    [
        "glibc.cpu.hwcaps=-AVX2,-AVX,-ERMS,-FSRM,-BMI1,-BMI2,-LZCNT,-MOVBE",
        "glibc.cpu.x86_data_cache_size=32768",
        "glibc.cpu.x86_shared_cache_size=1048576",
        "glibc.cpu.x86_non_temporal_threshold=1048576",
        "glibc.cpu.x86_rep_movsb_threshold=2048",
        "glibc.cpu.x86_rep_stosb_threshold=2048",
    ]
)


class Failure(Exception):
    """What keeps the counts from being made or compared."""


def output(command, **options):
    """Runs a command and returns it when it has succeeded."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise Failure(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}")
    return done


def number(pattern, text, what):
    match = re.search(pattern, text)
    if not match:
        raise Failure(f"{what}: no line like {pattern!r} in\n{text}")
    return int(match.group(1))


def count(name, seed):
    """Runs a path under callgrind and returns its counts."""
    with tempfile.TemporaryDirectory() as directory:
        done = output(
            [
                "valgrind",
                "--tool=callgrind",
                # The function in src/meter.rs, mangled or not.
                "--toggle-collect=*measured_part*",
                f"--callgrind-out-file={directory}/out",
                PROGRAM,
                name,
            ],
            # Nothing else: the environment is on the stack, and moves what comes after it.
            env={"PATH": os.environ["PATH"], "GLIBC_TUNABLES": TUNABLES, "LD_PRELOAD": seed},
        )
    instructions = number(r"Collected\s*:\s*(\d+)", done.stderr, name)
    if not instructions:
        raise Failure(f"{name}: callgrind has not found the function measured_part")
    return {
        "instructions": instructions,
        "allocations": number(r"(?m)^allocations (\d+)$", done.stdout, name),
        "bytes": number(r"(?m)^bytes (\d+)$", done.stdout, name),
    }


def fixed_seed(directory):
    """Makes the library that gives every hash map the same seed, and returns its path.

    With seeds of their own, the counts of a run that fills hash maps differ from run to run.
    """
    library = Path(directory) / "seed.so"
    source = "benches/instructions/seed.c"
    output(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source])
    return str(library)


def tools():
    """Returns the versions that the counts depend on."""
    version = lambda *command: output(list(command)).stdout.strip().splitlines()[0]
    return {
        "rustc": version("rustc", "--version"),
        "valgrind": version("valgrind", "--version"),
        "libc": version("getconf", "GNU_LIBC_VERSION"),
        "machine": os.uname().machine,
    }


def judge(name, base, now):
    """Returns the faults of a path: what of it is not as in the baseline."""
    if base is None:
        return ["has no baseline"]
    if now is None:
        return ["is in the baseline, but not in the program"]
    faults = []
    change = 100 * (now["instructions"] - base["instructions"]) / base["instructions"]
    if abs(change) > TOLERANCE:
        faults.append(f"{change:+.1f} % instructions")
    for what in COUNTS[1:]:
        if now[what] != base[what]:
            faults.append(f"{now[what] - base[what]:+,} {what}")
    return faults


def table(baseline, counted):
    """Returns a table of all paths, and whether all are as in the baseline."""
    rows, is_equal = [], True
    head = ("path", "instructions", "baseline", "change", "allocations", "bytes", "")
    for name in dict.fromkeys([*baseline, *counted]):
        base, now = baseline.get(name), counted.get(name)
        faults = judge(name, base, now)
        is_equal &= not faults
        cells = [f"{now[what]:,}" if now else "-" for what in COUNTS]
        before = f"{base['instructions']:,}" if base else "-"
        change = "-"
        if base and now:
            change = 100 * (now["instructions"] - base["instructions"]) / base["instructions"]
            change = f"{change:+.2f} %"
        verdict = "FAILS: " + ", ".join(faults) if faults else "ok"
        rows.append((name, cells[0], before, change, cells[1], cells[2], verdict))
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:6], widths[1:6])]
        lines.append("  ".join([*cells, row[6]]).rstrip())
    return "\n".join(lines), is_equal


def written(used, counted):
    """Returns a baseline as text."""
    lines = [f"# What each hot path needs, and the tools that counted it: `{WRITE}`.", ""]
    lines += ["[tools]", *(f'{tool} = "{version}"' for tool, version in used.items()), ""]
    lines += ["[paths]"]
    for name, counts in counted.items():
        fields = ", ".join(f"{what} = {counts[what]}" for what in COUNTS)
        lines.append(f"{name} = {{ {fields} }}")
    return "\n".join(lines) + "\n"


def read_baseline():
    try:
        return tomllib.loads(BASELINE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"tools": {}, "paths": {}}
    except tomllib.TOMLDecodeError as error:
        raise Failure(f"{BASELINE.relative_to(ROOT)}: {error}") from None


def spread(name, runs):
    """Returns by how much the counts of several runs differ, as a line."""
    parts = []
    for what in COUNTS:
        low, high = min(run[what] for run in runs), max(run[what] for run in runs)
        parts.append(f"{low:,}" if low == high else f"{low:,} to {high:,}")
    is_same = all(run == runs[0] for run in runs)
    verdict = "the same" if is_same else "DIFFERENT"
    return f"{name}: {' | '.join(parts)}: {verdict} in {len(runs)} runs", is_same


def main():
    parser = argparse.ArgumentParser(prog=".ci/instructions", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write a new baseline")
    parser.add_argument("--runs", type=int, default=1, help="run each path so many times")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these paths")
    arguments = parser.parse_args()
    names = output([PROGRAM]).stdout.split()
    unknown = set(arguments.names) - set(names)
    if unknown:
        raise Failure(
            f"there is no path {', '.join(sorted(unknown))}: there are {', '.join(names)}"
        )
    chosen = arguments.names or names
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(os.cpu_count()) as pool:
        seed = fixed_seed(directory)
        jobs = [pool.submit(count, name, seed) for name in chosen for _ in range(arguments.runs)]
        results = [job.result() for job in jobs]
    runs = {
        name: results[index * arguments.runs : (index + 1) * arguments.runs]
        for index, name in enumerate(chosen)
    }
    counted = {name: found[0] for name, found in runs.items()}
    if arguments.runs > 1:
        lines = [spread(name, found) for name, found in runs.items()]
        print("\n".join(line for line, _ in lines))
        if not all(is_same for _, is_same in lines):
            raise Failure("runs of the same program differ: the counts say nothing")
    baseline, used = read_baseline(), tools()
    paths = baseline["paths"]
    if arguments.write:
        kept = {name: counts for name, counts in paths.items() if name in names}
        both = kept | counted
        text = written(used, {name: both[name] for name in names if name in both})
        BASELINE.write_text(text, encoding="utf-8")
        print(f"written: {BASELINE.relative_to(ROOT)}")
        return
    if arguments.names:
        paths = {name: counts for name, counts in paths.items() if name in chosen}
    text, is_equal = table(paths, counted)
    print(text)
    if is_equal:
        return
    for tool, version in used.items():
        before = baseline["tools"].get(tool)
        if before != version:
            print(f"the baseline was counted with another {tool}: {before}, now {version}")
    raise Failure(
        f"not as in the baseline (instructions within {TOLERANCE:g} %, allocations the same). "
        f"If that is meant, write a new one and commit it with the change: {WRITE}"
    )


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
