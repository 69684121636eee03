"""The loggers of a run: metrics.csv always, wandb and TensorBoard by choice."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

KINDS = ("csv", "wandb", "tensorboard")


def build_loggers(kinds: list[str], run: Path, *, project: str, group: str | None) -> list[Logger]:
    """One logger a kind, all of them writing below the run's folder.

    Args:
        kinds: some of `KINDS`.
        run: the run's folder.
        project: of wandb.
        group: of wandb, e.g. the name of a sweep.

    Raises:
        ValueError: a kind is unknown, or its package is not installed.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"logger.kinds={unknown[0]} is unknown. Use some of {', '.join(KINDS)}.")
    return [_build(kind, run, project, group) for kind in kinds]


def _build(kind: str, run: Path, project: str, group: str | None) -> Logger:
    if kind == "csv":
        _keep_earlier_metrics(run)
        with warnings.catch_warnings():
            # The folder is the run's, so it is never empty; the file that Lightning would delete has been kept.
            warnings.filterwarnings("ignore", "Experiment logs directory")
            logger = CSVLogger(save_dir=run, name="", version="", flush_logs_every_n_steps=1)
            _ = logger.experiment
        return logger
    try:
        if kind == "tensorboard":
            return TensorBoardLogger(save_dir=run, name="", version="tensorboard")
        offline = not (os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").is_file())
        return WandbLogger(name=run.name, save_dir=run, project=project, group=group, offline=offline)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"logger.kinds={kind} needs a package that is not installed. pip install -e '.[{kind}]'"
        ) from error


def _keep_earlier_metrics(run: Path) -> None:
    """A resumed run goes on in a new file; what was measured before stays beside it."""
    current = run / "metrics.csv"
    if rank_zero_only.rank == 0 and current.is_file():
        number = 1
        while (kept := run / f"metrics.{number}.csv").exists():
            number += 1
        current.rename(kept)
