"""Which run `auto` means: the newest finished one that fits, what was passed over, and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dragonfly_lit.app.runs import CONFIG_FILE, RESULT_FILE, read_config
from dragonfly_lit.training.checkpoint.format import CheckpointInfo
from dragonfly_lit.training.checkpoint.locate import damage_of, list_checkpoints, step_folders

log = logging.getLogger(__name__)

WITH_WEIGHTS = ("vision.path", "vision.tower", "language.path", "projector", "zoom.selector", "zoom.learned")
"""Keys that say which weights a model has."""
AROUND_THEM = ("vision.image_size", "vision.feature_layer", "zoom")
"""Keys that weights of one model may differ in: a study of the zoom starts all its cells from one stage 1."""
MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that `auto` may mean.

    Attributes:
        run: its folder.
        checkpoint: the last one.
        info: what that is; None where nothing says so.
        written: when, in seconds.
        reason: why the run is passed over, empty where it is not.
    """

    run: Path
    checkpoint: Path
    info: CheckpointInfo | None
    written: float
    reason: str

    def __str__(self) -> str:
        step = "" if self.info is None else f"step {self.info.step} of {self.info.steps}"
        return f"{self.run} ({self.reason or step})"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What `auto` found.

    Attributes:
        taken: the newest run that fits; None without any.
        passed: newer runs that do not fit, newest first; all of them where none fits.
        differs: keys beside the weights that are not as they are here.
    """

    taken: Candidate | None
    passed: tuple[Candidate, ...]
    differs: str = ""

    @property
    def checkpoint(self) -> Path | None:
        """The last one of that run."""
        return None if self.taken is None else self.taken.checkpoint

    def passed_over(self) -> str:
        """A sentence that names them, empty where there are none."""
        if not self.passed:
            return ""
        more = len(self.passed) - MOST_NAMED
        named = ", ".join(map(str, self.passed[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
        return f" Passed over: {named}."


def find_finished(runs: Path, *, stage: str | None = None, like: Mapping[str, Any] | None = None) -> Found:
    """The newest finished run below `runs`, of a stage and of a model where given.

    A run has finished when its stage has: a killed one is passed over, and so are one that still trains and one whose
    last checkpoint is damaged.

    Args:
        runs: where runs lie.
        stage: whose weights are wanted; other runs are not looked at.
        like: the resolved configuration whose model they are for.
    """
    candidates = [one for run in runs.glob("*/") if (one := _candidate(run, stage, like)) is not None]
    candidates.sort(key=lambda one: one.written, reverse=True)
    passed: list[Candidate] = []
    for one in candidates:
        if not one.reason and (damage := damage_of(one.checkpoint)):
            one = replace(one, reason=f"its last checkpoint is damaged: {damage}")
        if not one.reason:
            differs = "" if like is None else _difference(_config_of(one.run), like, AROUND_THEM)
            return Found(taken=one, passed=tuple(passed), differs=differs)
        passed.append(one)
    return Found(taken=None, passed=tuple(passed))


def _candidate(run: Path, stage: str | None, like: Mapping[str, Any] | None) -> Candidate | None:
    folders, readable = step_folders(run), list_checkpoints(run)
    if not folders or (readable and stage not in (None, readable[-1][1].stage)):
        return None
    checkpoint, reason = folders[-1], ""
    if not readable or readable[-1][0] != checkpoint:
        with suppress(FileNotFoundError):
            written = checkpoint.stat().st_mtime
            reason = f"its last checkpoint is damaged: {damage_of(checkpoint)}"
            return Candidate(run=run, checkpoint=checkpoint, info=None, written=written, reason=reason)
        return None  # just deleted by the run that trains there
    info = readable[-1][1]
    if info.step < info.steps and not (run / RESULT_FILE).is_file():
        reason = f"step {info.step} of {info.steps}, not finished"
    elif like is not None and info.model != like["model"]["name"]:
        reason = f"of model={info.model}"
    elif like is not None and (other := _difference(_config_of(run), like, WITH_WEIGHTS)):
        reason = f"another model: {other}"
    return Candidate(run=run, checkpoint=checkpoint, info=info, written=info.saved_at, reason=reason)


def _config_of(run: Path) -> Mapping[str, Any]:
    if not (run / CONFIG_FILE).is_file():
        return {}
    try:
        return read_config(run)
    except ValueError as error:
        log.warning("%s", error)
        return {}


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The first key in which two configurations differ, with both values; what one of them lacks is not compared."""
    for key in keys:
        there, here = _select(theirs, key), _select(ours, key)
        if key.endswith(".path"):
            there, here = (Path(value).name if isinstance(value, str) else value for value in (there, here))
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            if found := _difference(there, here, tuple(name for name in here if name in there)):
                return f"{key}.{found}"
        elif there != here and there is not _MISSING and here is not _MISSING:
            return f"{key}={there} there, {here} here"
    return ""


_MISSING = object()


def _select(node: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return _MISSING
        node = node[name]
    return node
