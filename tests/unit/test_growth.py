"""The work of a command grows as its input does, counted in calls; benchmarks/growth.py does so for every command."""

from __future__ import annotations

import contextlib
import io
import time

import pytest

from benchmarks.growth import COMMANDS, LINEAR_CALLS, growth, num_calls


def calls(name: str, folder, sizes: list[int]) -> list[float]:
    found = []
    with contextlib.redirect_stdout(io.StringIO()):
        COMMANDS[name].prepare(folder / "warm", sizes[0])()
        for size in sizes:
            found.append(float(num_calls(COMMANDS[name].prepare(folder / str(size), size))))
    return found


@pytest.mark.parametrize(("name", "size"), [("turns", 10), ("index", 40), ("cut", 20), ("score", 40)])
def test_a_command_is_linear_in_its_input(tmp_path, name, size):
    ratio = growth(calls(name, tmp_path, [size, 2 * size, 4 * size]))
    assert ratio is not None
    assert 1.5 < ratio < LINEAR_CALLS


def test_what_is_quadratic_is_marked():
    def quadratic(n: int):
        return lambda: [time.time() for _ in range(n) for _ in range(n)]

    assert (growth([float(num_calls(quadratic(n))) for n in (20, 40, 80)]) or 0) == pytest.approx(4, rel=0.05)
    assert growth([100.0, 101.0, 102.0]) is None
