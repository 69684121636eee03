"""How long a test waits before it takes something for hung: longer on a slow machine, and on a busy one."""

from __future__ import annotations

import functools
import os
import time

SPARE = 3.0
"""Times what a quiet, usual machine may take: a limit only ends what hangs, so that a long one costs nothing."""
USUAL_S = 0.05
"""What a million turns of an empty loop take on a usual machine."""


def patient(seconds: float) -> float:
    """A limit for what takes up to `seconds` on a usual machine that does nothing else.

    Limits that prove that something is quick are none of these.
    """
    return seconds * SPARE * max(_slowness(), _crowding())


@functools.cache
def _slowness() -> float:
    """How many times as long as a usual machine this one takes, alone or not; never below 1."""
    begun = time.perf_counter()
    for _ in range(10**6):
        pass
    return max(1.0, (time.perf_counter() - begun) / USUAL_S)


def _crowding() -> float:
    """How many processes share a processor now; never below 1."""
    try:
        return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    except (AttributeError, OSError):  # not everywhere
        return 1.0
