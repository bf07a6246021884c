"""What a run has shown: pure functions of samples and failures."""

import re
from collections import namedtuple

Failures = namedtuple("Failures", ["faults", "excused"])

# From the second quarter of a run, when caches and the history are full, to the last one. Memory is
# that of the highest sample in each.
MEMORY_SHARE, MEMORY_KIB = 0.10, 8 << 10
DESCRIPTORS, THREADS = 4, 2


def histogram(text, name):
    """Returns a histogram of the text of /metrics: upper bound -> count."""
    rows = re.findall(rf'^{name}_bucket{{le="([^"]+)"[^}}]*}} (\d+)', text, re.M)
    return {float(bound.replace("+Inf", "inf")): int(count) for bound, count in rows}


def between(before, after):
    """Returns the number of observations since, and the bounds of their median and 99 % in ms."""
    counts = [(bound, count - before.get(bound, 0)) for bound, count in sorted(after.items())]
    total = counts[-1][1] if counts else 0
    if total <= 0:
        return 0, None, None
    at = lambda share: next(bound for bound, count in counts if count >= share * total)
    return total, round(at(0.5) * 1e3, 3), round(at(0.99) * 1e3, 3)


def failures(failed, gaps):
    """Tells failures that no gap excuses from those that one does."""
    faults, excused = [], 0
    for failure in failed:
        is_in_gap = any(failure["from"] <= end and begin <= failure["to"] for begin, end in gaps)
        if is_in_gap:
            excused += 1
        else:
            took, what, at = failure["to"] - failure["from"], failure["what"], failure["at"]
            faults.append(
                f"{what} to {at} failed after {took:.2f} s: {failure['error']}"
            )
    return Failures(faults, excused)


def quarter(samples, number, column):
    """Returns the values of a column in one quarter of the run."""
    count = len(samples)
    part = samples[count * number // 4 : count * (number + 1) // 4]
    return [row[column] for row in part if row[column] is not None]


def growth(samples):
    """Returns what has grown in the daemon that was left alone."""
    faults = []
    for column, bound in (
        ("steady_rss_kib", lambda it: it * (1 + MEMORY_SHARE) + MEMORY_KIB),
        ("steady_fds", lambda it: it + DESCRIPTORS),
        ("steady_threads", lambda it: it + THREADS),
    ):
        early, late = quarter(samples, 1, column), quarter(samples, 3, column)
        if not early or not late:
            faults.append(f"{column}: there are not enough samples: {len(samples)}")
        elif max(late) > bound(max(early)):
            faults.append(
                f"{column} has grown: {max(early)} in the second quarter, {max(late)} in the last, "
                f"more than {bound(max(early)):.0f}"
            )
    return faults


def activity(samples, events):
    """Returns what a run lacks that shows anything."""
    faults = []
    if not samples or samples[-1]["connections_made"] < 10:
        faults.append("hardly any connection was made")
    if not samples or sum(row["queue_to_ack_count"] for row in samples) < 10:
        faults.append("hardly any change was committed")
    if not any(event[1] == "started" for event in events):
        faults.append("the daemon was never started again")
    return faults


def summary(samples, events, gaps):
    """Returns the figures of a run as a Markdown table."""
    if not samples:
        return "no samples"
    last = samples[-1]
    of = lambda column: [row[column] for row in samples if row[column] is not None]
    times = lambda kind: sum(1 for event in events if event[1] == kind)
    mib = lambda kib: f"{kib / 1024:.1f} MiB"
    early, late = (quarter(samples, number, "steady_rss_kib") for number in (1, 3))
    lengths = [end - begin for begin, end in gaps]
    rows = [
        ("duration", f"{last['seconds'] / 60:.1f} minutes"),
        ("changes of files", f"{last['changes']:,}"),
        ("kill -9", times("kill -9") + times("kill -9, and the tables are deleted")),
        ("SIGTERM, SIGHUP", f"{times('SIGTERM')}, {times('SIGHUP')}"),
        ("`nft flush ruleset`", times("nft flush ruleset")),
        ("gaps: the rules were missing", f"{len(gaps)}, longest {max(lengths, default=0):.2f} s"),
        ("new connections", f"{last['connections_made']:,}"),
        ("of these failed in gaps", last["failed_in_gaps"]),
        ("oldest connection", f"{max(of('oldest_connection_seconds')):.0f} s"),
        (
            "memory, second and last quarter",
            f"{mib(max(early, default=0))}, {mib(max(late, default=0))}",
        ),
        ("descriptors, threads", f"{max(of('steady_fds'))}, {max(of('steady_threads'))} at most"),
        ("processor", f"{last['steady_cpu_seconds'] / last['seconds'] * 100:.1f} % of a core"),
        (
            "elements",
            f"{min(of('elements')):,} to {max(of('elements')):,} in {max(of('sets'))} sets",
        ),
        (
            "receipt of a change to the kernel's ACK, highest of the samples",
            f"p50 ≤ {max(of('queue_to_ack_p50_ms'))} ms, "
            f"p99 ≤ {max(of('queue_to_ack_p99_ms'))} ms",
        ),
    ]
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])
