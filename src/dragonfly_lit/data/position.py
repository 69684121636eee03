"""Where training is in the data: what was consumed, on every rank, in plain types.

The state of a stream rides in the batch that it describes; whoever trains on the batch marks it consumed. So
nothing that workers, Lightning or pinning have fetched ahead can count as seen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch.distributed as dist
from lightning.pytorch import Callback

from dragonfly_lit.data.stream import CUT, READ, SKIPPED, TOO_LONG
from dragonfly_lit.spec.records import Batch

log = logging.getLogger(__name__)
OnMismatch = Literal["raise", "restart"]


class Position:
    """Micro-batches consumed and the state of every stream that has given one.

    Attributes:
        fingerprint: everything that decides the order; a state of another one is refused.
        num_consumed: micro-batches consumed by all ranks together when the epoch began, or the state was loaded.
        streams: the last consumed state of each stream, as far as this rank knows.
    """

    def __init__(self, fingerprint: Mapping[str, Any], *, ranks: int = 1):
        self.fingerprint = dict(fingerprint)
        self.ranks = ranks
        self.stays = False
        """Whether every epoch begins here again: nothing counts as consumed."""
        self.num_consumed = 0
        self.streams: dict[int, dict[str, Any]] = {}
        self._fresh: set[int] = set()
        self._local = 0

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches consumed by all ranks together; each rank has consumed as many."""
        return self.num_consumed + self._local * self.ranks

    def mark(self, batch: Batch) -> None:
        """This rank has trained on `batch`."""
        if batch.state is None:
            raise ValueError("the batch has no state: it does not come from the training loader.")
        self.mark_states([batch.state], 1)

    def mark_states(self, last: Iterable[Mapping[str, Any]], num_batches: int) -> None:
        """This rank has trained on `num_batches` batches, of which `last` are the last states of their streams."""
        if self.stays:
            return
        for state in last:
            self.streams[state["stream"]] = dict(state["state"])
            self._fresh.add(state["stream"])
        self._local += num_batches

    def gather(self) -> None:
        """Tell every rank what the others have consumed. All ranks must call it together."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            mine = {stream: self.streams[stream] for stream in self._fresh}
            found: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(found, mine)
            for theirs in found:
                self.streams.update(theirs)
        self.num_consumed, self._local = self.num_micro_batches, 0
        self._fresh.clear()

    def state_dict(self) -> dict[str, Any]:
        """Gathered over all ranks: fingerprint, micro-batches, streams. Plain types only."""
        self.gather()
        streams = [[stream, dict(self.streams[stream])] for stream in sorted(self.streams)]
        return {"fingerprint": dict(self.fingerprint), "micro_batches": self.num_consumed, "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any], on_mismatch: OnMismatch = "raise") -> None:
        """Go on from `state`, under any number of ranks and workers.

        Raises:
            ValueError: the data or how they are ordered changed, and `on_mismatch` is `raise`; what changed is named.
        """
        changed = differences(state["fingerprint"], self.fingerprint)
        if changed and on_mismatch == "raise":
            raise ValueError(
                f"the data changed since the checkpoint, so its position means nothing here: {'; '.join(changed)}. "
                "Restore what changed, or start the data anew with data.on_mismatch=restart (the weights still resume)."
            )
        if changed:
            log.warning("the data start anew, since they changed: %s", "; ".join(changed))
            return
        self.streams = {int(stream): dict(saved) for stream, saved in state["streams"]}
        self.num_consumed, self._local = int(state["micro_batches"]), 0
        self._fresh.clear()

    def counts(self, sources: list[str]) -> dict[str, dict[str, int]]:
        """For each source how many samples were read, skipped, too long and cut, as far as this rank knows."""
        places = {"read": READ, "skipped": SKIPPED, "too_long": TOO_LONG, "cut": CUT}
        rows = [state["counts"] for state in self.streams.values()]
        return {
            source: {word: sum(row[n][at] for row in rows) for word, at in places.items()}
            for n, source in enumerate(sources)
        }


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, as `key was A and is B`."""
    found: list[str] = []
    for key in sorted({*saved, *now}, key=str):
        before, after = saved.get(key, "absent"), now.get(key, "absent")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {_short(before)} and is {_short(after)}")
    return found


def _short(value: Any) -> str:
    return (
        f"a source of {value['samples']} samples" if isinstance(value, Mapping) and "samples" in value else f"{value}"
    )


class MarkConsumed(Callback):
    """Marks each training batch as consumed. A callback, because its hook runs before a checkpoint is saved."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        trainer.datamodule.position.mark(batch)  # pyright: ignore
