import os

from soak import Soak

HOURS = float(os.environ.get("SOAK_HOURS", "0.12"))
"""Simulated hours; 4 take about five minutes of two idle cores."""
EARLY_GROWTH = 0.12
"""Largest growth of memory in a run that ends before its pools are full; a slow leak shows only in
a whole day, see soak.py."""


def test_hours_of_operation_leak_nothing_and_lose_no_decision(tmp_path):
    report = Soak(HOURS, seed=7, folder=tmp_path, growth_limit=EARLY_GROWTH).run()
    print("\n".join(report.lines()))
    assert report.problems == []
