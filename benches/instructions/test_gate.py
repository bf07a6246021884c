"""The comparison with the baseline: what fails, and what is said of it."""

import tomllib
import unittest

from gate import COUNTS, Failure, judge, number, spread, table, written

BASE = {"instructions": 1000, "allocations": 10, "bytes": 640}


class Gate(unittest.TestCase):
    def test_instructions_may_differ_by_the_tolerance_in_both_directions(self):
        for instructions, faults in (
            (1000, []),
            (1030, []),
            (970, []),
            (1031, ["+3.1 % instructions"]),
            (969, ["-3.1 % instructions"]),
        ):
            self.assertEqual(judge("a", BASE, BASE | {"instructions": instructions}), faults)

    def test_allocations_must_be_the_same(self):
        self.assertEqual(judge("a", BASE, BASE | {"allocations": 11}), ["+1 allocations"])
        self.assertEqual(judge("a", BASE, BASE | {"bytes": 639}), ["-1 bytes"])

    def test_a_path_that_only_one_side_has_fails(self):
        self.assertEqual(judge("a", None, BASE), ["has no baseline"])
        self.assertIn("not in the program", judge("a", BASE, None)[0])
        text, is_equal = table({"gone": BASE, "same": BASE}, {"same": BASE, "new": BASE})
        self.assertFalse(is_equal)
        verdicts = [line.split()[0] for line in text.splitlines() if "FAILS" in line]
        self.assertEqual(verdicts, ["gone", "new"])

    def test_a_baseline_that_is_written_is_read_as_the_same(self):
        counted = {"change-endpoint": BASE, "adopt": BASE | {"bytes": 0}}
        read = tomllib.loads(written({"rustc": "rustc 1.95.0 (a b)"}, counted))
        self.assertEqual(read["paths"], counted)
        self.assertEqual(read["tools"], {"rustc": "rustc 1.95.0 (a b)"})
        self.assertEqual(list(read["paths"]["adopt"]), list(COUNTS))

    def test_runs_that_differ_are_told(self):
        line, is_same = spread("a", [BASE, BASE | {"instructions": 1001}])
        self.assertFalse(is_same)
        self.assertIn("1,000 to 1,001", line)
        self.assertTrue(spread("a", [BASE, dict(BASE)])[1])

    def test_output_without_a_count_is_a_failure(self):
        self.assertEqual(number(r"Collected\s*:\s*(\d+)", "==1== Collected : 42", "a"), 42)
        with self.assertRaises(Failure):
            number(r"Collected\s*:\s*(\d+)", "==1== nothing", "a")


if __name__ == "__main__":
    unittest.main()
