"""Where a run starts: the checkpoint that it goes on from, the weights that it takes, and for how many steps."""

from __future__ import annotations

from pathlib import Path

from dragonfly_lit.app.build import Config
from dragonfly_lit.app.newest import find_finished
from dragonfly_lit.app.reading import reading_of
from dragonfly_lit.app.stage import AUTO
from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.training.checkpoint.format import read_info
from dragonfly_lit.training.checkpoint.locate import find_resume, resolve, weights_behind, whole

STAGE_BEFORE = {"2": "1", "biomed": "2", "dpo": "2"}
"""Whose weights `init_from=auto` takes, by stage."""


def find_starts(config: Config) -> list[str | None]:
    """The checkpoint that the run goes on from, and where its weights came from, each None where there is none.

    Raises:
        ValueError: there is none where one is asked for, or it is damaged.
    """
    resume = find_start(config, "resume")
    init_from = weights_behind(resume) if resume else find_start(config, "init_from")
    return [None if path is None else str(path) for path in (resume, init_from)]


def find_steps(config: Config, data: DragonflyDataModule, resume: Path | None) -> tuple[int, str]:
    """The optimizer steps of the run and a line about what each reads; a run that goes on keeps those it began with.

    Raises:
        ValueError: `stage.steps=auto` without samples.
    """
    found = reading_of(config, data.samples_per_micro_batch, data.means.tokens)
    if resume is not None and config["stage"]["steps"] == AUTO:
        steps = read_info(resume).steps
        return steps, f"The {steps:,} steps of the run that goes on are kept."
    return found.steps, found.told


def find_start(config: Config, key: str) -> Path | None:
    """The checkpoint that `resume` or `init_from` means, None where the run starts afresh.

    Raises:
        ValueError: there is none where one is asked for.
    """
    value, runs, name = config[key], Path(config["runs_root"]), config["name"]
    if value is None:
        return None
    if value != "auto":
        return whole(resolve(Path(value)))
    if key == "resume":
        return find_resume(runs / name)
    stage, model = STAGE_BEFORE.get(config["stage"]["name"], "1"), config["model"]["name"]
    found = find_finished(runs, stage=stage, like=config)
    if found.checkpoint is None:
        raise ValueError(
            f"init_from=auto: stage={config['stage']['name']} starts from the newest finished stage-{stage} run of "
            f"model={model}, and there are none below runs_root={runs}.{found.passed_over()} Run `python train.py "
            f"stage={stage} model={model}` first, or give init_from=PATH, or init_from=null for a fresh projector."
        )
    beside = f", with {found.differs}" if found.differs else ""
    print(
        f"init_from=auto takes {found.taken}, the newest finished stage-{stage} run of this model{beside}."
        f"{found.passed_over()} Another is taken by init_from=PATH."
    )
    return found.checkpoint
