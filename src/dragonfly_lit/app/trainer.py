"""Lightning's Trainer from the configuration: every flag is handed on, but for those that a run depends on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, Precision
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

from dragonfly_lit.app.build import Config, make
from dragonfly_lit.app.moved import REFUSED
from dragonfly_lit.training.callbacks import TimeLimit

OWN = ("precision", "gradients", "compile", "log_every", "val_every")
"""Keys of `conf/trainer` that are this project's."""

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


def build_trainer(
    config: Config, run: Path, callbacks: list[pl.Callback], loggers: list[Logger], strategy: Any
) -> pl.Trainer:
    """Precision, clipping and checkpoints are the module's and the strategy's own; the rest is as `trainer` says.

    Args:
        config: resolved.
        run: folder of the run.
        callbacks: of the run, in their order.
        loggers: of the run.
        strategy: of the run.

    Raises:
        ValueError: a flag is refused, unknown, or has a value that Lightning does not take.
    """
    node, stage = config["trainer"], config["stage"]
    check_flags(node)
    flags = {key: value for key, value in node.items() if key not in OWN and value is not None}
    flags["profiler"] = _profiler(flags.get("profiler"), run)
    flags["plugins"] = _plugins(flags.get("plugins"))
    flags["enable_model_summary"] |= any(isinstance(callback, ModelSummary) for callback in callbacks)
    limit = flags.pop("max_time", None)
    every = min(node["val_every"] or stage["steps"], stage["steps"])
    try:
        return pl.Trainer(
            strategy=strategy,
            precision="32-true",
            max_steps=stage["steps"],
            max_epochs=-1,
            accumulate_grad_batches=stage["accumulate"],
            val_check_interval=every * stage["accumulate"],
            check_val_every_n_epoch=None,
            logger=loggers,
            callbacks=callbacks if limit is None else [*callbacks, TimeLimit(limit)],
            log_every_n_steps=node["log_every"],
            use_distributed_sampler=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            default_root_dir=run,
            **flags,
        )
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error


def check_flags(node: Mapping[str, Any]) -> None:
    """Refuses the flags that a run depends on, and those that nobody knows.

    Raises:
        ValueError: names the flag and the key to use.
    """
    known = inspect.signature(pl.Trainer).parameters
    for key in node:
        if key in REFUSED:
            raise ValueError(f"trainer.{key} is not set here: {REFUSED[key]}.")
        if key not in (*known, *OWN):
            near = get_close_matches(key, [*known, *OWN], n=3, cutoff=0.5)
            raise ValueError(
                f"trainer.{key} is not a flag of Lightning's Trainer."
                + (f" Did you mean {' or '.join(f'trainer.{name}' for name in near)}?" if near else "")
            )


def _profiler(wanted: Any, run: Path) -> Any:
    """A profiler by name writes into the run's folder; by `_target_` it is built as it says."""
    if wanted is None:
        return None
    if isinstance(wanted, Mapping):
        return make(wanted, where="trainer.profiler")
    if wanted not in PROFILERS:
        raise ValueError(
            f"trainer.profiler={wanted} is unknown. Use one of {', '.join(PROFILERS)}, or a node: "
            "'trainer.profiler={_target_: CLASS}'."
        )
    return PROFILERS[wanted](dirpath=run / "profile", filename=wanted)


def _plugins(wanted: Any) -> list[Any]:
    nodes = [wanted] if isinstance(wanted, Mapping) else wanted or []
    plugins = [make(node, where=f"trainer.plugins.{number}") for number, node in enumerate(nodes)]
    for kind, way_out in ((Precision, "Use trainer.precision"), (CheckpointIO, "Use callbacks.checkpoints")):
        if refused := [plugin for plugin in plugins if isinstance(plugin, kind)]:
            raise ValueError(f"trainer.plugins: {type(refused[0]).__name__} would not be asked. {way_out}.")
    return plugins
