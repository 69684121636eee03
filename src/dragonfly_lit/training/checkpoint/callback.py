"""The callback that writes checkpoints: when, how many stay, and what a resumed run needs beside the weights."""

from __future__ import annotations

import io
import pickle
import random
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from dragonfly_lit.io.atomic import PARTIAL
from dragonfly_lit.training.checkpoint.format import REPLACED
from dragonfly_lit.training.checkpoint.locate import CHECKPOINTS, list_checkpoints, step_folder

_OWN = re.compile(r"step-\d{8,}")
"""Names of checkpoints; `step-00000250-best`, which a person has kept, is not touched."""


class Checkpoints(Checkpoint):
    """Saves at the end of optimizer steps, never within an accumulation; the last step is always saved.

    Whatever else ends a run (Lightning's `EarlyStopping`, `max_time`, a callback that sets `trainer.should_stop`) ends
    it at the end of an optimizer step, and that step is saved.

    Args:
        run: folder of the run; checkpoints go to `run/checkpoints/step-N`.
        every: optimizer steps between checkpoints.
        keep_last: how many of the newest stay.
        keep_every: checkpoints whose step divides by this stay as well; None keeps none for that.
        background: write while training goes on.
        trainable_only: leave frozen weights out; the run's configuration names them.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        every: int = 1000,
        keep_last: int = 2,
        keep_every: int | None = None,
        background: bool = False,
        trainable_only: bool = False,
    ) -> None:
        if every < 1 or keep_last < 1:
            raise ValueError(f"callbacks.checkpoints: every={every} and keep_last={keep_last} must be at least 1.")
        self.run, self.every, self.keep_last, self.keep_every = Path(run), every, keep_last, keep_every
        self.options = {"background": background, "trainable_only": trainable_only}
        self._saved_step = -1
        self._stop_after_step = False
        self._randomness: dict[str, Any] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.strategy.writer.on_complete = self._prune  # type: ignore[attr-defined]
        check_plain(trainer.callbacks)  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            clear_unfinished(self.run)
            tensors = pl_module.checkpoint_tensors(self.options["trainable_only"])
            check_space(self.run, sum(t.numel() * t.element_size() for t in tensors.values()), self.keep_last)

    def _prune(self, folder: Path) -> None:
        prune(self.run, self.keep_last, self.keep_every, newest=folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._saved_step = trainer.global_step
        pl_module.reads.append(lambda step: step % self.every == 0 or self._stop_after_step)
        if self._randomness is not None:
            set_randomness(self._randomness)
            self._randomness = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._within_step(trainer):
            return
        step, report = trainer.global_step, pl_module.report
        if report is None or report.step + 1 != step or step == self._saved_step:
            return
        if step % self.every == 0 or step >= pl_module.stage.steps or report.stop or trainer.should_stop:
            self._save(trainer, {"background": False} if report.stop else {})
        if report.stop:
            trainer.limit_val_batches = 0  # the time that is left is for ending, not for validation
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._save_if_stopping(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._save_if_stopping(trainer)

    def _within_step(self, trainer: pl.Trainer) -> bool:
        """Whoever wants to stop within an accumulation would leave half a step behind: it waits for the step's end, and
        for one whose report is here."""
        module: Any = trainer.lightning_module
        within = trainer.fit_loop._should_accumulate() or not module.knows_last_step
        wanted = self._stop_after_step or trainer.should_stop
        self._stop_after_step, trainer.should_stop = (wanted, False) if within else (False, wanted)
        return within

    def _save_if_stopping(self, trainer: pl.Trainer) -> None:
        if trainer.state.fn != TrainerFn.FITTING or self._within_step(trainer):
            return
        if trainer.should_stop and trainer.global_step != self._saved_step:
            self._save(trainer, {})

    def _save(self, trainer: pl.Trainer, options: dict[str, Any]) -> None:
        if getattr(trainer, "fast_dev_run", False):  # it leaves nothing behind
            return
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(step_folder(self.run, self._saved_step), storage_options=self.options | options)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.strategy.writer.finish()  # type: ignore[attr-defined]

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["randomness"] = all_randomness()

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["randomness"]
        recount(
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"],
            ranks_before=len(states),
            ranks=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches,
        )
        self._randomness = states[trainer.global_rank] if trainer.global_rank < len(states) else None


def check_plain(callbacks: list[pl.Callback]) -> None:
    """Refuses callbacks whose state a checkpoint could not give back: it is read without running what it names.

    Raises:
        ValueError: names the callback.
    """
    for callback in callbacks:
        file = io.BytesIO()
        try:
            torch.save(callback.state_dict(), file)
            torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        except (pickle.PicklingError, pickle.UnpicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"callbacks: the state_dict of {type(callback).__name__} holds more than numbers, texts, tensors, "
                "lists and dicts, so that a checkpoint with it could not be read. Keep it plain."
            ) from error


def recount(progress: dict[str, Any], *, ranks_before: int, ranks: int, accumulate: int) -> None:
    """Counts a rank's batches as if this number of ranks had read them: Lightning steps when the count divides by
    `accumulate`, so that a run resumed under other counts would else begin in the middle of an optimizer step.

    Args:
        progress: of the batches of a rank, from the checkpoint; changed in place.
        ranks_before: of the run that wrote it.
        ranks: of the run that goes on.
        accumulate: micro-batches a rank in one of its optimizer steps.
    """
    in_step = progress["current"]["ready"] % accumulate == 0 or progress["is_last_batch"]
    if ranks_before == ranks and in_step:
        return
    for counts in (progress["total"], progress["current"]):
        steps = -(-counts["ready"] * ranks_before // (ranks * accumulate))
        shift = steps * accumulate - counts["ready"]
        counts.update({name: count + shift for name, count in counts.items()})


def all_randomness() -> list[dict[str, Any]]:
    """State of every rank's generators, by rank; plain types only."""
    version, keys, position, has_gauss, gauss = np.random.get_state()
    mine = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [version, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [mine]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, mine)
    return states


def set_randomness(state: dict[str, Any]) -> None:
    """Takes back what `all_randomness` gave for this rank."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    version, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((version, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate(state["python"])


def prune(run: Path, keep_last: int, keep_every: int | None, *, newest: Path) -> None:
    """Deletes checkpoints of a run that are neither among the last ones nor at a step to keep.

    Args:
        run: folder of the run.
        keep_last: how many of the last ones up to `newest` stay.
        keep_every: steps that it divides stay too.
        newest: the checkpoint that was just written. Those of later steps stay: they are of an earlier attempt, from
            which this one went back, and are replaced when it comes there.
    """
    own = [entry for entry in list_checkpoints(run) if _OWN.fullmatch(entry[0].name) and not entry[0].is_symlink()]
    for folder, info in [entry for entry in own if entry[0].name <= newest.name][:-keep_last]:
        if keep_every is None or info.step % keep_every:
            shutil.rmtree(folder)


def clear_unfinished(run: Path) -> None:
    """Deletes what a killed run left half written, and puts back what it was about to replace."""
    for replaced in _left_behind(run, REPLACED):
        if not (folder := replaced.with_name(replaced.name.removesuffix(REPLACED))).exists():
            replaced.rename(folder)
        else:
            shutil.rmtree(replaced)
    for partial in _left_behind(run, PARTIAL):
        shutil.rmtree(partial)


def _left_behind(run: Path, suffix: str) -> list[Path]:
    """Folders of a run by the names that only this module gives; a copy that somebody keeps there is not one."""
    found = (run / CHECKPOINTS).glob(f"step-*{suffix}")
    own = (path for path in found if _OWN.fullmatch(path.name.removesuffix(suffix)))
    return [path for path in own if path.is_dir() and not path.is_symlink()]


def check_space(run: Path, num_bytes: int, keep_last: int) -> None:
    """Refuses to train towards checkpoints that cannot be written.

    Raises:
        ValueError: the folder cannot be written, or the disk has no room for `keep_last` + 1 checkpoints.
    """
    folder = run / CHECKPOINTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"runs_root: cannot write {folder} ({error.strerror}). Choose another runs_root.") from error
    free, needed = shutil.disk_usage(folder).free, num_bytes * (keep_last + 1)
    if free < needed:
        raise ValueError(
            f"callbacks.checkpoints.keep_last={keep_last}: {keep_last + 1} checkpoints of {num_bytes / 1e9:.1f} GB do "
            f"not fit into the {free / 1e9:.1f} GB that are free at {folder}. Keep fewer, set trainable_only=true, or "
            "use another disk."
        )
