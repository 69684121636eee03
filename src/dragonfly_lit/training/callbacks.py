"""The callbacks of a run, in the order in which they must act."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from dragonfly_lit.training.checkpoint.callback import Checkpoints
from dragonfly_lit.training.logs import Answer, AnswerLog, SampleLog
from dragonfly_lit.training.progress import Bar, StartTable
from dragonfly_lit.training.survival import BadSteps, Preemption
from dragonfly_lit.training.telemetry import Telemetry


def build_callbacks(
    run: Path,
    *,
    checkpoints: Mapping[str, Any],
    bad_steps: Mapping[str, Any],
    telemetry: Mapping[str, Any],
    progress: bool = True,
    sample_log: str | Path | None = None,
    answers: Mapping[str, Any] | None = None,
    answer: Answer | None = None,
) -> list[Callback]:
    """Everything beside the training itself; the fields are those of `conf/callbacks`.

    A callback that marks batches as consumed goes before these. Checkpoints come last, so that what a checkpoint
    holds is what the others have made of the step.

    Args:
        run: folder of the run.
        checkpoints: fields of Checkpoints.
        bad_steps: fields of BadSteps.
        telemetry: fields of Telemetry.
        progress: whether to show a table and a bar.
        sample_log: file of SampleLog; None writes none.
        answers: fields of AnswerLog; None asks nothing.
        answer: asks the questions; None asks nothing.
    """
    callbacks: list[Callback] = [BadSteps(run, **bad_steps), Telemetry(**telemetry)]
    if progress:
        callbacks += [StartTable(), Bar()]
    if sample_log is not None:
        callbacks.append(SampleLog(sample_log))
    if answers is not None and answer is not None:
        callbacks.append(AnswerLog(run / "answers", answer, **answers))
    return [*callbacks, Preemption(), Checkpoints(run, **checkpoints)]
