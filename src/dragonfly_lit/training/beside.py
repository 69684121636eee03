"""What is done beside training (answers, pictures, log files, loggers) never ends it: said once, counted, gone on."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.loggers import Logger

from dragonfly_lit.io import disk

log = logging.getLogger(__name__)
CALLED = ("log_metrics", "log_hyperparams", "log_graph", "log_image", "save", "finalize", "after_save_checkpoint")
"""What Lightning and callbacks ask of a logger while a run goes on."""


class Beside:
    """Runs what training does not depend on: `with beside("sample answers"): ...`.

    Only for what a rank does by itself: a rank that failed within a collective would leave the others waiting in it.

    Attributes:
        failures: how often each thing failed.
    """

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Within it any exception is caught; the first one of `what` is said, with its type, as a bug would be."""
        try:
            yield
        except Exception as error:
            self.failures[what] += 1
            if self.failures[what] == 1:
                found = disk.behind(error)
                reason = (disk.explain(found) if found else None) or f"{type(error).__name__}: {error}"
                log.warning("%s failed, and training goes on: %s", what, " ".join(reason.split()))

    def summary(self) -> str:
        """One line of what failed and how often; empty where nothing did."""
        counts = ", ".join(f"{what} {count} times" for what, count in sorted(self.failures.items()))
        return f"Failed beside training: {counts}; the log says why." if counts else ""

    def guard(self, logger: Logger, name: str) -> Logger:
        """The same logger, whose calls fail without a consequence: a network that is gone, a disk that is full."""
        for method in CALLED:
            if callable(inner := getattr(logger, method, None)):
                setattr(logger, method, self._guarded(inner, f"logger.{name}"))
        return logger

    def _guarded(self, method, what: str):
        @functools.wraps(method)
        def call(*args, **kwargs):
            with self(what):
                return method(*args, **kwargs)

        return call
