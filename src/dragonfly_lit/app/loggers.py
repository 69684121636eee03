"""The loggers of a run: each is a node with a `_target_`; metrics.csv of a resumed run is kept."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from dragonfly_lit.app.build import make
from dragonfly_lit.training.beside import Beside
from dragonfly_lit.training.ranks import global_rank

EXTRAS = ("wandb", "tensorboard")
"""Loggers whose package is an extra of this project's."""


def build_loggers(nodes: Mapping[str, Any], run: Path, beside: Beside) -> list[Logger]:
    """The loggers that `conf/logger` and the command line name.

    Args:
        nodes: by name; null leaves one out.
        run: the run's folder, whose metrics.csv of an earlier start is kept.
        beside: catches what a logger does once the run goes on; one that cannot be built ends it before.

    Raises:
        ValueError: a logger cannot be built, or its package is not installed.
    """
    _keep_earlier_metrics(run)
    return [beside.guard(_build(name, node), name) for name, node in nodes.items() if node is not None]


def wandb_logger(**fields: Any) -> WandbLogger:
    """Weights & Biases, offline where neither the environment nor ~/.netrc has a key, named as the run's folder.

    Args:
        fields: of Lightning's WandbLogger.
    """
    offline = not (os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").is_file())
    return WandbLogger(**{"offline": offline, "name": Path(fields["save_dir"]).name, **fields})


def _build(name: str, node: Any) -> Logger:
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError(
            f"logger.{name}={node} has no _target_. Use logger=csv, wandb or tensorboard, or name a class: "
            f"+logger.{name}._target_=lightning.pytorch.loggers.CSVLogger."
        )
    try:
        logger = make(node, where=f"logger.{name}")
    except ValueError as error:
        cause = error.__cause__.__cause__ if error.__cause__ else None
        if name in EXTRAS and isinstance(cause, ImportError):
            raise ValueError(
                f"logger={name} needs a package that is not installed. pip install 'dragonfly_lit[{name}]'"
            ) from error
        raise
    if not isinstance(logger, Logger):
        raise ValueError(f"logger.{name} gives a {type(logger).__name__}, which is not a Lightning logger.")
    if isinstance(logger, CSVLogger):
        with warnings.catch_warnings():
            # The folder is the run's, so it is never empty; the file that Lightning would delete has been kept.
            warnings.filterwarnings("ignore", "Experiment logs directory")
            _ = logger.experiment
    return logger


def _keep_earlier_metrics(run: Path) -> None:
    """A resumed run goes on in a new file; what was measured before stays beside it."""
    current = run / "metrics.csv"
    if global_rank() == 0 and current.is_file():
        number = 1
        while (kept := run / f"metrics.{number}.csv").exists():
            number += 1
        current.rename(kept)
