"""Limits of tests follow the machine: they grow with what slows it, and are never shorter than what they are for."""

import re
from pathlib import Path

import limits
import pytest
from limits import patient

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(("slowness", "load", "times"), [(1.0, 0.0, 1), (5.0, 0.0, 5), (1.0, 20.0, 10), (4.0, 4.0, 4)])
def test_a_slow_or_busy_machine_is_given_more_time(monkeypatch, slowness, load, times):
    monkeypatch.setattr(limits, "_slowness", lambda: slowness)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    assert patient(60) == 60 * limits.SPARE * times
    monkeypatch.delattr("os.getloadavg")
    assert patient(60) == 60 * limits.SPARE * slowness


def test_no_test_waits_for_a_fixed_time():
    fixed = re.compile(r"\btimeout=\d|\.(?:join|wait|communicate)\(\d|monotonic\(\) \+ \d")
    found = [
        f"{path.relative_to(TESTS)}:{number}: {line.strip()}"
        for path in sorted(TESTS.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if fixed.search(line)
    ]
    assert not found, "use patient() of tests/limits.py"
