#!/usr/bin/env python3
"""Draws docs/figures/change-{light,dark}.svg: the latency of a change by the number of Services.

Reads the tables of docs/figures.md (rulec) and docs/figures/kube-proxy.csv (kube-proxy).

    benches/chart.py            writes the two files
    benches/chart.py --check    fails if they differ from what would be written
"""

import csv
import math
import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs/figures.md"
KUBE_PROXY = ROOT / "docs/figures/kube-proxy.csv"

UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}

# The first cells of the rows that are drawn, with the names in the chart. The third is the whole
# way through the daemon; the table has it at one size, and its first row is drawn.
CHANGE = "one endpoint ±: change → delta"
COMMIT = "one endpoint more: delta → kernel ACK (one transaction)"
DAEMON = "change in the channel → kernel ACK"

WIDTH, HEIGHT = 760, 456
LEFT, RIGHT, TOP, BOTTOM = 76, 34, 58, 74
X_RANGE = (1e3, 1e5)
Y_RANGE = (1e-6, 1e2)

THEMES = {
    "light": {
        "background": "#ffffff",
        "text": "#1f2328",
        "faint": "#59636e",
        "grid": "#d8dee4",
        "rulec": "#0969da",
        "nftables": "#bc4c00",
        "iptables": "#8250df",
    },
    "dark": {
        "background": "#0d1117",
        "text": "#f0f6fc",
        "faint": "#9198a1",
        "grid": "#2f353d",
        "rulec": "#4493f8",
        "nftables": "#f0883e",
        "iptables": "#ab7df8",
    },
}


def medians(text):
    """Returns the medians of docs/figures.md: row name -> [(Services, seconds)]."""
    row = re.compile(r"^\| ([^|]+) \| (\d+) services × \d+[^|]*\| \*\*([\d.]+) (µs|ms|s)\*\* \(p50\)")
    found = {}
    for line in text.splitlines():
        match = row.match(line)
        if match:
            name, services, value, unit = match.groups()
            point = (int(services), float(value) * UNITS[unit])
            found.setdefault(name.strip(), []).append(point)
    for name in (CHANGE, COMMIT, DAEMON):
        if name not in found:
            sys.exit(f"{FIGURES}: no row {name!r}")
    return found


def kube_proxy(text):
    """Returns the rows of kube-proxy.csv, without its comments."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def x(services):
    low, high = (math.log10(bound) for bound in X_RANGE)
    return LEFT + (math.log10(services) - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def y(seconds):
    low, high = (math.log10(bound) for bound in Y_RANGE)
    return HEIGHT - BOTTOM - (math.log10(seconds) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def duration(seconds):
    """Returns a duration as a label: 5.8 µs, 141 ms, 23 s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size * 0.9995:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.2g} µs"


class Drawing:
    """An SVG under construction."""

    def __init__(self, colours):
        self.colours = colours
        self.lines = []

    def text(self, at_x, at_y, what, colour="text", anchor="start", size=13, weight="normal"):
        self.lines.append(
            f'<text x="{at_x:.1f}" y="{at_y:.1f}" fill="{self.colours[colour]}"'
            f' text-anchor="{anchor}" font-size="{size}" font-weight="{weight}">{escape(what)}</text>'
        )

    def line(self, x1, y1, x2, y2, colour, width=1):
        self.lines.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            f' stroke="{self.colours[colour]}" stroke-width="{width}"/>'
        )

    def path(self, points, colour, dash=""):
        steps = " ".join(f"{x(services):.1f},{y(seconds):.1f}" for services, seconds in points)
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        self.lines.append(
            f'<polyline points="{steps}" fill="none" stroke="{self.colours[colour]}"'
            f' stroke-width="2"{dash}/>'
        )

    def dot(self, services, seconds, colour, hollow=False, square=False):
        at_x, at_y = x(services), y(seconds)
        fill = self.colours["background" if hollow else colour]
        style = f'fill="{fill}" stroke="{self.colours[colour]}" stroke-width="2"'
        if square:
            shape = f'<rect x="{at_x - 4:.1f}" y="{at_y - 4:.1f}" width="8" height="8" {style}/>'
        else:
            shape = f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="4.5" {style}/>'
        self.lines.append(shape)


def draw(colours, ours, theirs):
    """Returns the chart as text."""
    chart = Drawing(colours)
    chart.text(LEFT, 24, "Latency of one change, by the number of Services", size=16, weight="bold")
    chart.text(
        LEFT, 43, "both axes logarithmic; rulec: medians; notes: docs/figures.md", "faint", size=12
    )
    for power in range(-6, 3):
        at = y(10.0**power)
        chart.line(LEFT, at, WIDTH - RIGHT, at, "grid")
        chart.text(LEFT - 8, at + 4, duration(10.0**power), "faint", "end", 12)
    for services in (1_000, 10_000, 20_000, 45_000, 100_000):
        at = x(services)
        chart.line(at, TOP, at, HEIGHT - BOTTOM, "grid")
        chart.text(at, HEIGHT - BOTTOM + 18, f"{services:,}", "faint", "middle", 12)
    middle = (LEFT + WIDTH - RIGHT) / 2
    chart.text(middle, HEIGHT - BOTTOM + 42, "Services", "text", "middle")

    for name, label, dash, below in (
        (CHANGE, "rulec: change → delta", "", False),
        (COMMIT, "rulec: delta → kernel ACK", "5 4", True),
    ):
        points = sorted(ours[name])
        chart.path(points, "rulec", dash)
        for services, seconds in points:
            chart.dot(services, seconds, "rulec", hollow=below)
        first, last = points[0], points[-1]
        ends = f"{label}: {duration(first[1])} to {duration(last[1])}"
        chart.text(x(1_000) + 8, y(first[1]) + (22 if below else -12), ends, "rulec")
    services, seconds = ours[DAEMON][0]
    chart.dot(services, seconds, "rulec", square=True)
    what = f"rulec: through the daemon: {duration(seconds)}"
    chart.text(x(services) - 10, y(seconds) + 4, what, "rulec", "end")

    for row in theirs:
        services, seconds = int(row["services"]), float(row["seconds"])
        is_published = row["source"].startswith("https:")
        chart.dot(services, seconds, row["mode"], hollow=is_published)
        what = f"kube-proxy {row['label']}: {duration(seconds)}"
        chart.text(x(services) - 10, y(seconds) + 4, what, row["mode"], "end")
    chart.text(
        WIDTH - RIGHT,
        HEIGHT - 8,
        "kube-proxy: filled = measured for rulec, hollow = published (docs/figures/kube-proxy.csv)",
        "faint",
        "end",
        11,
    )

    body = "\n".join(chart.lines)
    title = "Latency of one change against the number of Services, rulec and kube-proxy"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" role="img">\n'
        f"<title>{title}</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{colours["background"]}"/>\n'
        f"{body}\n</svg>\n"
    )


def main():
    arguments = sys.argv[1:]
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    ours = medians(FIGURES.read_text(encoding="utf-8"))
    theirs = kube_proxy(KUBE_PROXY.read_text(encoding="utf-8"))
    stale = []
    for theme, colours in THEMES.items():
        path = ROOT / f"docs/figures/change-{theme}.svg"
        text = draw(colours, ours, theirs)
        if not arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
    if stale:
        sys.exit(f"{', '.join(stale)}: not what benches/chart.py would write; run it")


if __name__ == "__main__":
    main()
