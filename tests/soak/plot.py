#!/usr/bin/env python3
"""Draws the samples of a soak: soak-{light,dark}.svg beside soak-{samples,events}.csv.

tests/soak/plot.py DIRECTORY            writes them
tests/soak/plot.py --check DIRECTORY    fails if they differ from what would be written
"""

import csv
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))
sys.dont_write_bytecode = True

from chart import THEMES, Drawing  # noqa: E402

WIDTH, LEFT, RIGHT, TOP = 760, 66, 16, 62
PANEL, GAP, FOOT = 104, 44, 60

# What is drawn in each panel: the title, the columns with their names and colours, and a divisor.
PANELS = [
    (
        "resident memory, MiB",
        [("steady_rss_kib", "left alone", "rulec"), ("killed_rss_kib", "disturbed", "nftables")],
        1024,
    ),
    (
        "descriptors and threads of the daemon that is left alone",
        [("steady_fds", "descriptors", "rulec"), ("steady_threads", "threads", "iptables")],
        1,
    ),
    (
        "receipt of a change to the kernel's ACK, ms (upper bounds of buckets)",
        [("queue_to_ack_p50_ms", "p50", "rulec"), ("queue_to_ack_p99_ms", "p99", "nftables")],
        1,
    ),
    ("elements in the kernel", [("elements", "elements", "rulec")], 1),
]
MARKS = {"kill -9": "grid", "kill -9, and the tables are deleted": "iptables", "gap": "iptables"}


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def step(most):
    """Returns a round distance of grid lines up to `most`."""
    power = 10 ** math.floor(math.log10(most / 2))
    return next(power * it for it in (1, 2, 5, 10) if power * it * 3 >= most)


def draw(colours, samples, events):
    """Returns the figure as text."""
    height = TOP + len(PANELS) * (PANEL + GAP) - GAP + FOOT
    drawing = Drawing(colours)
    end = float(samples[-1]["seconds"])
    x = lambda seconds: LEFT + seconds / end * (WIDTH - LEFT - RIGHT)
    drawing.text(LEFT, 24, "A soak of rulec: two daemons, the same changes", size=16, weight="bold")
    drawing.text(
        LEFT, 42, "vertical lines: kill -9, or gaps without rules; docs/soak.md", "faint", size=12
    )
    for index, (title, series, divisor) in enumerate(PANELS):
        top = TOP + index * (PANEL + GAP) + 12
        points = {
            column: [
                (float(row["seconds"]), float(row[column]) / divisor)
                for row in samples
                if row[column]
            ]
            for column, _, _ in series
        }
        most = max((value for values in points.values() for _, value in values), default=1) or 1
        distance = step(most)
        lines = math.ceil(most / distance)
        y = lambda value: top + PANEL - value / (lines * distance) * PANEL
        drawing.text(LEFT, top - 6, title, size=12)
        for line in range(lines + 1):
            value = line * distance
            drawing.line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid")
            drawing.text(LEFT - 6, y(value) + 4, f"{value:,g}", "faint", "end", 11)
        for event in events:
            if event["event"] in MARKS:
                at = x(float(event["seconds"]))
                drawing.line(at, top, at, top + PANEL, MARKS[event["event"]])
        right = WIDTH - RIGHT
        for column, name, colour in reversed(series):
            drawing.text(right, top - 6, f"– {name}", colour, "end", 12)
            right -= 7 * len(name) + 26
            # A daemon that is not there has no samples, and the line goes on after it.
            line = " ".join(f"{x(seconds):.1f},{y(value):.1f}" for seconds, value in points[column])
            drawing.lines.append(
                f'<polyline points="{line}" fill="none" stroke="{colours[colour]}"'
                f' stroke-width="1.5"/>'
            )
    distance = step(end / 60)
    for minute in range(0, int(end / 60 / distance) + 1):
        label = f"{minute * distance:g}"
        drawing.text(x(minute * distance * 60), height - FOOT + 18, label, "faint", "middle", 11)
    drawing.text((LEFT + WIDTH - RIGHT) / 2, height - FOOT + 38, "minutes", "text", "middle", 12)
    body = "\n".join(drawing.lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" role="img">\n'
        "<title>Memory, descriptors, latency and elements during a soak of rulec</title>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="{colours["background"]}"/>\n'
        f"{body}\n</svg>\n"
    )


def figures(directory):
    """Returns the figures by their paths."""
    samples, events = read(directory / "soak-samples.csv"), read(directory / "soak-events.csv")
    return {
        directory / f"soak-{theme}.svg": draw(colours, samples, events)
        for theme, colours in THEMES.items()
    }


def write(directory):
    """Draws the samples in a directory."""
    for path, text in figures(directory).items():
        path.write_text(text, encoding="utf-8")


def main():
    words = sys.argv[1:]
    is_check = words[:1] == ["--check"]
    if len(words) != 1 + is_check:
        sys.exit(__doc__)
    directory = Path(words[-1])
    if not is_check:
        write(directory)
        return
    stale = [
        str(path)
        for path, text in figures(directory).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if stale:
        sys.exit(f"{', '.join(stale)}: not what tests/soak/plot.py would write; run it")


if __name__ == "__main__":
    main()
