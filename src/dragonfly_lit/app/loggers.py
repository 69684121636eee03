"""The loggers of a run: each is a node with a `_target_`; metrics.csv of a resumed run is kept."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.logger import _flatten_dict, _sanitize_params
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from dragonfly_lit.app.build import Config, make
from dragonfly_lit.app.sample_answers import picture_name
from dragonfly_lit.io.metrics import METRICS_FILE
from dragonfly_lit.processing.images import decode
from dragonfly_lit.training.beside import Beside
from dragonfly_lit.training.ranks import global_rank

ANSWER = ("id", "question", "answer", "expected")
PAGES = ("report.html", "results.json", "results.md")
HEADLINE = ("loss", "val_loss")
"""What TensorBoard shows beside the hyperparameters of a run."""
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
    # Pictures of tables and pages wait here for `wandb sync`: a run's folder that is copied elsewhere has them.
    os.environ.setdefault("WANDB_DATA_DIR", str(Path(fields["save_dir"]).absolute() / "wandb"))
    offline = not (os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").is_file())
    return WandbLogger(**{"offline": offline, "name": Path(fields["save_dir"]).name, **fields})


def log_config(loggers: Sequence[Logger], config: Config) -> None:
    """The resolved configuration as hyperparameters; the CSV logger's stands in the run's `config.yaml`."""
    for logger in _others(loggers):
        logger.log_hyperparams(config)
        if isinstance(logger, TensorBoardLogger) and not logger._default_hp_metric and global_rank() == 0:
            from torch.utils.tensorboard.summary import hparams

            # Tags only: TensorBoard shows the last value that the run itself writes under each.
            flat = _sanitize_params(_flatten_dict(config))
            for summary in hparams(flat, dict.fromkeys(HEADLINE, 0.0)):
                logger.experiment._get_file_writer().add_summary(summary)


def log_answers(loggers: Sequence[Logger], folder: Path, beside: Beside) -> None:
    """Sample answers with the pictures of where the model looked: a table of W&B, texts and images of TensorBoard.

    Args:
        loggers: of the run.
        folder: `step-N` with `answers.jsonl` and a picture a question.
        beside: catches what a logger does.
    """
    writers = {WandbLogger: _answers_to_wandb, TensorBoardLogger: _answers_to_tensorboard}
    if not (others := _others(loggers)):
        return
    step = int(folder.name.rpartition("-")[2])
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    pictures = [path if (path := folder / picture_name(line["id"])).is_file() else None for line in lines]
    for logger in others:
        write = next((write for kind, write in writers.items() if isinstance(logger, kind)), None)
        if write is not None:
            with beside(f"the answers in {type(logger).__name__}"):
                write(logger, lines, pictures, step)


def _answers_to_wandb(logger: WandbLogger, lines: Sequence[Any], pictures: Sequence[Path | None], step: int) -> None:
    import wandb

    shown = [None if path is None else wandb.Image(str(path)) for path in pictures]
    rows = [[*(line[key] for key in ANSWER), image] for line, image in zip(lines, shown, strict=True)]
    logger.log_table("answers", columns=[*ANSWER, "zoom"], data=rows, step=step)
    drawn = [(str(path), line) for path, line in zip(pictures, lines, strict=True) if path is not None]
    captions = [f"{line['question']} {line['answer']} (expected {line['expected']})" for _, line in drawn]
    logger.log_image("zoom", [path for path, _ in drawn], step=step, caption=captions)


def _answers_to_tensorboard(
    logger: TensorBoardLogger, lines: Sequence[Any], pictures: Sequence[Path | None], step: int
) -> None:
    for line, path in zip(lines, pictures, strict=True):
        told = f"{line['question']}  \n**{line['answer']}**, expected {line['expected']}"
        logger.experiment.add_text(f"answers/{line['id']}", told, step)
        if path is not None:
            logger.experiment.add_image(f"zoom/{line['id']}", np.asarray(decode(path)), step, dataformats="HWC")


def log_scores(loggers: Sequence[Logger], scores: Mapping[str, Any], run: Path, step: int, beside: Beside) -> None:
    """The headline score of each benchmark, and the page of results as an artifact of W&B.

    Args:
        loggers: of the run.
        scores: of `app.score`.
        run: its folder.
        step: after which the model was scored.
        beside: catches what a logger does.
    """
    entries = scores.get("benchmarks", {})
    line = {f"score/{name}": one["scores"][one["headline"]] * one["scale"] for name, one in entries.items()}
    for logger in _others(loggers) if line else ():
        with beside(f"the scores in {type(logger).__name__}"):
            logger.log_metrics(line, step=step)
            logger.save()
            if isinstance(logger, WandbLogger):
                _pages_to_wandb(logger, dict.fromkeys(run / one["folder"] for one in entries.values()))


def _pages_to_wandb(logger: WandbLogger, folders: Iterable[Path]) -> None:
    import wandb

    for folder in folders:
        artifact = wandb.Artifact(f"results-{re.sub(r'[^A-Za-z0-9_.-]+', '-', folder.name)}", type="evaluation")
        for name in PAGES:
            artifact.add_file(str(folder / name))
        logger.experiment.log_artifact(artifact)


def _others(loggers: Sequence[Logger]) -> list[Logger]:
    """Loggers of rank zero that take more than rows of numbers."""
    return [logger for logger in loggers if not isinstance(logger, CSVLogger)] if global_rank() == 0 else []


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
    current = run / METRICS_FILE
    if global_rank() == 0 and current.is_file():
        number = 1
        while (kept := run / f"metrics.{number}.csv").exists():
            number += 1
        current.rename(kept)
