"""What a soak is judged by."""

import sys
import unittest

sys.dont_write_bytecode = True

import judge

TEXT = """\
# TYPE rulec_queue_to_ack_seconds histogram
rulec_queue_to_ack_seconds_sum 1.5
rulec_queue_to_ack_seconds_bucket{le="0.001"} 10
rulec_queue_to_ack_seconds_bucket{le="0.002"} 19
rulec_queue_to_ack_seconds_bucket{le="+Inf"} 20
other_bucket{le="0.001"} 7
"""


def samples(**columns):
    """Sixteen samples, of which each column has the values of its quarters."""
    rows = [{"steady_rss_kib": 50_000, "steady_fds": 30, "steady_threads": 9} for _ in range(16)]
    for column, quarters in columns.items():
        for index, row in enumerate(rows):
            row[column] = quarters[index // 4]
    return rows


class Judge(unittest.TestCase):
    def test_a_failure_is_excused_by_a_gap_that_it_meets(self):
        failure = {"what": "a new connection", "at": "10.96.0.1:80", "error": "refused"}
        at = lambda begin, end: failure | {"from": begin, "to": end}
        gaps = [(10.0, 11.0), (20.0, 20.5)]
        for begin, end, is_excused in (
            (10.2, 10.3, True),
            (9.0, 10.0, True),
            (11.0, 12.0, True),
            (9.0, 30.0, True),
            (11.5, 19.5, False),
            (21.0, 22.0, False),
        ):
            found = judge.failures([at(begin, end)], gaps)
            self.assertEqual((len(found.faults), found.excused), (1 - is_excused, int(is_excused)))
        found = judge.failures([at(1.0, 3.5)], [])
        self.assertEqual(
            found.faults, ["a new connection to 10.96.0.1:80 failed after 2.50 s: refused"]
        )

    def test_what_stays_or_grows_only_at_the_start_is_no_growth(self):
        self.assertEqual(judge.growth(samples()), [])
        start = samples(steady_rss_kib=[9_000, 50_000, 50_000, 55_000], steady_fds=[3, 30, 30, 34])
        self.assertEqual(judge.growth(start), [])

    def test_growth_is_found(self):
        for column, quarters in (
            ("steady_rss_kib", [50_000, 50_000, 57_000, 64_000]),
            ("steady_fds", [30, 30, 33, 35]),
            ("steady_threads", [9, 9, 9, 12]),
        ):
            [fault] = judge.growth(samples(**{column: quarters}))
            self.assertIn(f"{column} has grown: {quarters[1]}", fault)

    def test_a_daemon_without_samples_is_a_fault(self):
        faults = judge.growth(samples(steady_rss_kib=[None, None, None, None]))
        self.assertEqual(faults, ["steady_rss_kib: there are not enough samples: 16"])

    def test_latencies_are_of_the_observations_between_two_readings(self):
        after = judge.histogram(TEXT, "rulec_queue_to_ack_seconds")
        self.assertEqual(after, {0.001: 10, 0.002: 19, float("inf"): 20})
        self.assertEqual(judge.between({}, after), (20, 1.0, float("inf")))
        before = {0.001: 9, 0.002: 10, float("inf"): 11}
        self.assertEqual(judge.between(before, after), (9, 2.0, 2.0))
        self.assertEqual(judge.between(after, after), (0, None, None))

    def test_a_run_in_which_nothing_happens_shows_nothing(self):
        quiet = samples(connections_made=[0, 1, 2, 3], queue_to_ack_count=[0, 0, 0, 0])
        self.assertEqual(len(judge.activity(quiet, [])), 3)
        busy = samples(connections_made=[9, 99, 999, 9_999], queue_to_ack_count=[9, 9, 9, 9])
        self.assertEqual(judge.activity(busy, [(7.0, "started", "exclusive tables")]), [])


if __name__ == "__main__":
    unittest.main()
