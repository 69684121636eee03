"""How many canonical streams an order has, and how many workers of a rank share them out."""

from __future__ import annotations

from math import lcm

FEW, MANY = 96, 3072
"""Streams of a fresh run: of small data, and of data that give each of many streams enough. Both are three times a
power of two, so that the usual numbers of ranks and workers divide them."""
SAMPLES_PER_STREAM = 64
"""What many streams must have to be taken: streams take turns, and one micro-batch of each must not be an epoch."""


def choose_streams(num_samples: int, ranks: int) -> int:
    """Streams where neither the configuration nor a checkpoint says: the same for every number of ranks that fits.

    Args:
        num_samples: of all sources together.
        ranks: processes that share the streams; a number that does not fit gets the next multiple that does.
    """
    return lcm(MANY if num_samples >= MANY * SAMPLES_PER_STREAM else FEW, ranks)


def fit_workers(num_streams: int, ranks: int, num_workers: int) -> int:
    """At most `num_workers`, and so many that each stream is one worker's. The order does not depend on it."""
    return next((n for n in range(num_workers, 0, -1) if num_streams % (ranks * n) == 0), 0)


def check_streams(num_streams: int, ranks: int, num_workers: int) -> None:
    """Refuse a number of workers that would share a stream.

    Raises:
        ValueError: `num_streams` is not a multiple of ranks times workers; the message lists the counts that work.
    """
    if num_streams % (ranks * max(num_workers, 1)) == 0:
        return
    good = [str(w) for w in range(1, 33) if num_streams % (ranks * w) == 0]
    ways = f"data.num_workers one of {', '.join(good)}" if good else f"data.num_streams a multiple of {ranks}"
    raise ValueError(
        f"data.num_streams={num_streams} is not a multiple of {ranks} ranks x data.num_workers={num_workers}. With "
        f"{ranks} ranks set {ways}, or data.num_streams=null. (Another num_streams is another order: a checkpoint does "
        "not go on under it.)"
    )


def check_saved(num_streams: int, ranks: int) -> None:
    """Refuse ranks that would share a stream of a checkpoint.

    Raises:
        ValueError: `num_streams` is not a multiple of them; the message lists those that work.
    """
    if num_streams % ranks:
        good = ", ".join(str(n) for n in range(1, num_streams + 1) if num_streams % n == 0 and n <= 2 * ranks)
        raise ValueError(
            f"the data of the checkpoint are dealt to {num_streams} streams, which {ranks} ranks cannot share. Go on "
            f"with {good} ranks, or start the data anew with data.on_mismatch=restart (the weights still resume)."
        )
