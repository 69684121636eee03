"""`dragonfly-train` and `dragonfly-evaluate`; in a clone `train.py` and `evaluate.py` call the same two functions."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from dragonfly_lit.app.errors import report_user_errors
from dragonfly_lit.app.overrides import CONF, check_types, normalize_overrides
from dragonfly_lit.io.commands import put_current_folder_on_path


def train() -> None:
    """Train one stage, or a sweep of them, as the command line says."""
    _run("train")


def evaluate() -> None:
    """Score a checkpoint, or a file of answers, on benchmarks, as the command line says."""
    _run("evaluate")


def _run(config: str) -> None:
    put_current_folder_on_path()
    job = {"train": _train, "evaluate": _evaluate}[config]
    with report_user_errors(config):
        sys.argv[1:] = normalize_overrides(sys.argv[1:], config)
        check_types(sys.argv[1:], config)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(job)()


def _train(cfg: DictConfig) -> float | None:
    """The validation loss, so that a sweeper can optimise it."""
    with report_user_errors("train", job=True):
        from dragonfly_lit.app.train import train  # after composing: a mistyped key is answered at once

        return train(cfg)


def _evaluate(cfg: DictConfig) -> None:
    with report_user_errors("evaluate", job=True):
        from dragonfly_lit.app.evaluate import evaluate  # likewise

        evaluate(cfg)
