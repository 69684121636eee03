"""Logs of which samples each micro-batch of a training had and what its loss was, and where two of them differ.

A line is `{"step", "rank", "keys", "loss"}`; rank r > 0 logs into a file of its own, `LOG.r`. Micro-batch k of rank r
in a step is number k x ranks + r of that step, so that logs of different counts of ranks can be compared.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Keys of the samples, in order, and the loss."""

    keys: tuple[str, ...]
    loss: float


Steps = dict[int, list[MicroBatch]]
"""Micro-batches of each optimizer step, in their global order."""


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last one of a killed run may be cut."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def last_step(path: Path) -> int:
    """The last step in the log of rank 0; -1 without a line."""
    return max((line["step"] for line in _lines(path)), default=-1)


def read_logs(path: Path) -> Steps:
    """The steps of a log that every rank has whole.

    Raises:
        ValueError: there is no such log, or it is empty.
    """
    lines = [line for part in (path, *path.parent.glob(f"{path.name}.*")) for line in _lines(part)]
    if not lines:
        raise ValueError(f"{path}: no sample was logged; the training wrote no callbacks.sample_log.")
    ranks: dict[int, dict[int, list[MicroBatch]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        ranks[line["step"]][line["rank"]].append(MicroBatch(keys=tuple(line["keys"]), loss=line["loss"]))
    num_ranks = max(max(of_step) for of_step in ranks.values()) + 1
    full = max(len(micro) for of_step in ranks.values() for micro in of_step.values())
    return {
        step: [of_step[rank][k] for k in range(full) for rank in range(num_ranks)]
        for step, of_step in sorted(ranks.items())
        if len(of_step) == num_ranks and all(len(micro) == full for micro in of_step.values())
    }


def num_compared(whole: Steps, part: Steps) -> str:
    """How many steps and samples two logs have in common, and how far their losses lie apart, in words."""
    common = sorted(whole.keys() & part.keys())
    pairs = [pair for step in common for pair in zip(whole[step], part[step], strict=False)]
    samples = sum(len(ours.keys) for _, ours in pairs)
    apart = max((abs(theirs.loss - ours.loss) for theirs, ours in pairs), default=0.0)
    first, last = (common[0], common[-1]) if common else ("-", "-")
    return f"steps {first} to {last}, {len(pairs)} micro-batches, {samples} samples, losses at most {apart:.1e} apart"


def difference(whole: Steps, part: Steps, tolerance: float, *, whole_steps: bool = False) -> str | None:
    """The first micro-batch of `part` that is not the same in `whole`.

    Args:
        whole: of the run without a stop.
        part: of a run that was killed or resumed.
        tolerance: of losses, relative.
        whole_steps: whether `part` must go on to the last step of `whole`.
    """
    if not whole.keys() & part.keys():
        return f"no step in common: {list(whole)} and {list(part)}"
    if whole_steps and max(part) != max(whole):
        return f"the last step is {max(part)}, without a stop {max(whole)}"
    for step, micro_batches in part.items():
        if step not in whole or len(whole[step]) != len(micro_batches):
            return f"step {step} has {len(micro_batches)} micro-batches, without a stop {len(whole.get(step, []))}"
        for number, (theirs, ours) in enumerate(zip(whole[step], micro_batches, strict=True)):
            where = f"step {step}, micro-batch {number}"
            if theirs.keys != ours.keys:
                return f"{where}: samples {', '.join(ours.keys)}; without a stop {', '.join(theirs.keys)}"
            if not abs(theirs.loss - ours.loss) <= tolerance * max(abs(theirs.loss), abs(ours.loss)):
                return f"{where}: loss {ours.loss}; without a stop {theirs.loss}"
    return None
