"""Errors that a user can mend end a command with one line: the key, the value, the way out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dragonfly_lit.app.moved import OF_EARLIER
from dragonfly_lit.app.overrides import CONF, choices, groups
from dragonfly_lit.io import disk
from dragonfly_lit.io.commands import INTERRUPT_STATUS, SET_BY_US, as_typed, wants_traceback, was_interrupted

EXIT_USER_ERROR = 1
INTERRUPTED = {
    "train": "no step was being trained. The same command with resume=auto goes on from the newest checkpoint, if any.",
    "sweep": "the job that ran is saved. The same command goes on with it, and with those that are missing.",
    "evaluate": "the answers so far are kept. The same command goes on with those that are missing.",
}
"""What Ctrl-C leaves behind, by command; within training the run is saved first (`training.survival.Preemption`)."""
USUAL = {
    **dict.fromkeys(
        ("lr", "learning_rate", "learning_rates"), "every group of a stage has one. Use stage.groups.0.lr=1e-4"
    ),
    **dict.fromkeys(("wd", "weight_decay"), "every group of a stage has one. Use stage.groups.0.weight_decay=0.1"),
    **dict.fromkeys(
        ("epochs", "max_epochs", "num_epochs", "num_train_epochs", "steps", "max_steps", "num_steps", "iterations"),
        "a stage is counted in optimizer steps. Use stage.steps=N",
    ),
    **dict.fromkeys(
        ("batch_size", "batchsize", "bs", "micro_batch_size", "per_device_train_batch_size"),
        "samples of a micro-batch are data.batch.size=N; packed rows are filled up to data.batch.max_tokens=N",
    ),
    **dict.fromkeys(
        ("accumulate", "accumulate_grad_batches", "gradient_accumulation_steps", "grad_accum"),
        "micro-batches of a step are stage.accumulate=N",
    ),
    **dict.fromkeys(("warmup", "warmup_steps", "warmup_ratio"), "use stage.warmup=N, or a share of the steps below 1"),
    **dict.fromkeys(
        ("gpus", "num_gpus", "devices", "ngpus"), "use trainer=gpu, and trainer.devices=N with strategy=ddp or fsdp"
    ),
    **dict.fromkeys(("num_nodes", "nodes"), "use trainer.num_nodes=N"),
    **dict.fromkeys(("precision", "fp16", "bf16", "amp"), "use trainer.precision=fp32, bf16 or fp8"),
    **dict.fromkeys(("num_workers", "workers", "dataloader_num_workers"), "use data.num_workers=N"),
    **dict.fromkeys(("dataset", "data_path", "datasets"), "use data=NAME, or data=mine data.path=FOLDER"),
    **dict.fromkeys(
        ("resume_from_checkpoint", "ckpt_path", "ckpt", "checkpoint"), "use resume=auto or PATH, or init_from=PATH"
    ),
    **dict.fromkeys(("output_dir", "out_dir", "out", "save_dir"), "a run lies in runs_root/name. Use these two"),
    **dict.fromkeys(("clip", "gradient_clip_val", "max_grad_norm", "grad_clip"), "use stage.clip=NORM"),
    **dict.fromkeys(("max_length", "max_seq_length", "model_max_length"), "use model.max_tokens=N"),
}
"""What people type who know other trainers, by the last name of the key, and what it is here."""
BELONGS_TO_A_MODEL = ("model", "vision", "language", "zoom", "projector", "stage")
"""Groups of train.py that a checkpoint has chosen."""
OPEN = {
    "callbacks": "A callback of your own is added by +callbacks.NAME._target_=CLASS.",
    "logger": "A logger of your own is added by +logger.NAME._target_=CLASS.",
    "trainer": "A flag of Lightning's Trainer that is not listed is added by +trainer.FLAG=VALUE.",
    "stage.optimizer": "Another optimizer is a choice of its group: optimizer=sgd, or a file of your own.",
    "stage.schedule": "A schedule of your own is given as a whole: 'stage.schedule={_target_: my_parts.schedule.f}'.",
}
"""Where parts of the user's own come in, and how."""
GO_ON = {"train": " Then resume=auto goes on.", "evaluate": " Then the same command goes on."}
"""After an error of the disk is mended, by configuration."""

USER_ERRORS = (ValueError, OSError, HydraException, OmegaConfBaseException)
"""What a user can mend."""


@contextmanager
def report_user_errors(config: str, *, job: bool = False) -> Iterator[None]:
    """Within it, what a user can mend ends in one line and exit status 1, a bug in its traceback.

    With `HYDRA_FULL_ERROR=1` in the environment every error keeps its traceback.

    Args:
        config: name of the configuration, for the keys that an answer names.
        job: inside what Hydra runs, so that Hydra adds no line of its own. The job of a sweep leaves it to the sweep.
    """
    if not wants_traceback():
        os.environ[SET_BY_US] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints errors itself, over several lines
    try:
        with _one_line_of_a_job():
            yield
    except (KeyboardInterrupt, Exception) as error:
        if was_interrupted(error):
            if job:
                raise  # Hydra's own, and a sweep's, are ended as well
            left = "sweep" if {"-m", "--multirun"} & set(sys.argv) else config
            print(as_typed(f"\ninterrupted: {INTERRUPTED[left]}"), file=sys.stderr)
            sys.exit(INTERRUPT_STATUS)
        is_sweeps = job and HydraConfig.get().mode == RunMode.MULTIRUN
        if not isinstance(error, USER_ERRORS) or wants_traceback() or is_sweeps:
            raise
        print(as_typed(f"error: {describe(error, config, sys.argv[1:])}"), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


@contextmanager
def _one_line_of_a_job() -> Iterator[None]:
    """Within it, Hydra does not print the overrides of a failed job above an error that is told in one line."""
    printing: Any = JobReturn.return_value

    def value(job: Any) -> Any:
        if isinstance(job._return_value, USER_ERRORS) and not wants_traceback():
            raise job._return_value
        return printing.fget(job)

    JobReturn.return_value = printing.getter(value)  # type: ignore[method-assign]
    try:
        yield
    finally:
        JobReturn.return_value = printing


def describe(error: BaseException, config: str, arguments: Sequence[str] = ()) -> str:
    """One line for `error`, with the nearest existing key or the existing choices.

    Args:
        error: of a user, of Hydra or of this project.
        config: name of the configuration.
        arguments: of the command line; its `--config-dir` and `hydra.searchpath` bring further choices.
    """
    # What Hydra wraps says more than the wrapping; what this project raises from another error says it better.
    wrappers = (HydraException, OmegaConfBaseException)
    while error.__cause__ and isinstance(error, wrappers) and not isinstance(error, MissingConfigException):
        error = error.__cause__
    if isinstance(error, OSError) and (line := disk.explain(error, go_on=GO_ON.get(config, ""))) is not None:
        return " ".join(line.split())
    text = str(error)
    if match := re.search(r"Error parsing override '(.+)'\s+missing EQUAL", text):
        return f"{match[1]} stands alone, without a value. Use KEY=VALUE, such as stage=1."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = choices(group, arguments) or ", ".join(error.options or [])
        if group in ("hydra/launcher", "hydra/sweeper"):
            options += "; others come with pip install 'dragonfly_lit[sweep]'"
        return f"{group}={choice} does not exist. Use one of {options}."
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text):
        key = match[1].split("@")[0]
        if key in OF_EARLIER:
            return f"{key} is not a key of this configuration: {OF_EARLIER[key]}."
        known = [name for name in _keys(config, arguments) if name != key]
        word = None if key.startswith(("callbacks.", "logger.")) else USUAL.get(key.split(".")[-1])
        if config == "train" and word is not None:
            return f"{key} is not a key of this configuration: {word}."
        if config == "evaluate" and key.split(".")[0] in BELONGS_TO_A_MODEL:
            return (
                f"{key} is not a key of evaluate.py: the checkpoint brings its own, as it was trained. Another is "
                f"chosen by checkpoint=PATH, or trained by python train.py {key}=..."
            )
        nested = [group for group in known if group.endswith(f"/{key}")]  # `cell`: experiment/cell
        near = nested or get_close_matches(key, known, n=3, cutoff=0.5)
        way_out = f"Did you mean {' or '.join(near)}?" if near else f"The keys are listed in conf/{config}.yaml."
        way_out += next((f" {hint}" for prefix, hint in OPEN.items() if key.startswith(f"{prefix}.")), "")
        return f"{key} is not a key of this configuration. {way_out}"
    return " ".join(text.split()) or type(error).__name__


def _keys(config: str, arguments: Sequence[str]) -> list[str]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(config)
    keys: list[str] = []

    def walk(node: DictConfig, prefix: str) -> None:
        for name in node:
            keys.append(f"{prefix}{name}")
            child = node._get_node(name)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
                walk(child, f"{prefix}{name}.")

    walk(cfg, "")
    return list(dict.fromkeys([*keys, *sorted(groups(arguments))]))
