"""The callbacks of a run, in the order in which they must act: this project's, and the user's own among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import callbacks as lightning
from lightning.pytorch.callbacks import Callback, Timer

from dragonfly_lit.training.averaging import EMAWeightAveraging
from dragonfly_lit.training.beside import Beside
from dragonfly_lit.training.checkpoint.callback import Checkpoints
from dragonfly_lit.training.logs import Answer, AnswerLog, SampleLog
from dragonfly_lit.training.progress import Bar, StartTable
from dragonfly_lit.training.survival import BadSteps, Preemption
from dragonfly_lit.training.telemetry import Telemetry

OWN = ("checkpoints", "bad_steps", "telemetry", "progress", "sample_log", "answers")
"""Keys of `conf/callbacks` that are this project's; every other one is a callback of the user's, by `_target_`."""

REFUSED: dict[type[Callback], str] = {
    lightning.WeightAveraging: (
        "copies the whole module and leaves its averages out of checkpoints that hold tensors by name. Use "
        "dragonfly_lit.training.averaging.EMAWeightAveraging (callbacks=ema)"
    ),
    lightning.StochasticWeightAveraging: "sets the learning rate. Use callbacks=ema, and stage.schedule for the rate",
    lightning.GradientAccumulationScheduler: "changes what an optimizer step is. Use stage.accumulate",
    lightning.BaseFinetuning: "freezes and thaws weights without the stage knowing. Use from_step in stage.groups",
    lightning.LearningRateFinder: "sets the learning rate. Use stage.groups, or experiment=lr_search",
    lightning.BatchSizeFinder: "changes what an optimizer step is. Use data.batch",
}
"""Callbacks of Lightning that would break what a run promises: why, and the way out."""


def build_callbacks(
    run: Path,
    *,
    checkpoints: Mapping[str, Any],
    bad_steps: Mapping[str, Any],
    telemetry: Mapping[str, Any],
    progress: bool = True,
    num_scored: int = 0,
    sample_log: str | Path | None = None,
    answers: Mapping[str, Any] | None = None,
    answer: Answer | None = None,
    beside: Beside | None = None,
    own: Sequence[Callback] = (),
) -> list[Callback]:
    """Everything beside the training itself; the fields are those of `conf/callbacks`.

    A callback that marks batches as consumed goes before these. The user's own come behind what they may read, and
    checkpoints last, so that what a checkpoint holds is what the others have made of the step. What is only logged
    cannot end the run.

    Args:
        run: folder of the run.
        checkpoints: fields of Checkpoints.
        bad_steps: fields of BadSteps.
        telemetry: fields of Telemetry.
        progress: whether to show a table and a bar.
        num_scored: images or samples that are looked at behind the last step, for the time that is left.
        sample_log: file of SampleLog; None writes none.
        answers: fields of AnswerLog; None asks nothing.
        answer: asks the questions; None asks nothing.
        beside: catches what goes wrong in logs and answers, and counts it.
        own: the user's; a progress bar among them takes the place of this project's.
    """
    beside = beside or Beside()
    callbacks: list[Callback] = [BadSteps(run, **bad_steps, beside=beside), Telemetry(**telemetry)]
    if progress:
        callbacks.append(StartTable())
        callbacks += [] if any(isinstance(callback, lightning.ProgressBar) for callback in own) else [Bar(num_scored)]
    if sample_log is not None:
        callbacks.append(SampleLog(sample_log, beside))
    if answers is not None and answer is not None:
        callbacks.append(AnswerLog(run / "answers", answer, **answers, beside=beside))
    return [*callbacks, *own, Preemption(), Checkpoints(run, **checkpoints)]


class TimeLimit(Timer):
    """`trainer.max_time`: ends this start of a run after a step; one that goes on has all of it anew, as each job of a
    cluster has. Lightning's own counts all starts together, so that the second would end after its first step."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing, which a checkpoint leaves out."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing is taken over."""


def check_own(name: str, callback: Any, *, validates: bool) -> None:
    """Refuses what is not a callback, or one that would break what a run promises.

    Args:
        name: its key below `callbacks`.
        callback: built.
        validates: whether the run has validation data.

    Raises:
        ValueError: names the key and the way out.
    """
    kind = type(callback).__name__
    if not isinstance(callback, Callback):
        raise ValueError(f"callbacks.{name} gives a {kind}, which is not a lightning.pytorch.Callback.")
    for refused, reason in REFUSED.items():
        if isinstance(callback, refused) and not isinstance(callback, EMAWeightAveraging):
            raise ValueError(f"callbacks.{name}: {kind} {reason}.")
    monitor = getattr(callback, "monitor", None)
    if isinstance(monitor, str) and monitor.startswith("val_") and not validates:
        raise ValueError(f"callbacks.{name}.monitor={monitor}, but data.val=null gives no {monitor}. Give data.val.")
