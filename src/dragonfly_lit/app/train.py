"""What `python train.py` does, read top to bottom: check, open the run, build, fit, say how it went."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from dragonfly_lit.app.build import Config, make, plain
from dragonfly_lit.app.check import DEVICES, check_multirun, check_objective, check_recipe_overrides, check_train
from dragonfly_lit.app.data import build_data, prepare_data, resolve_validation, share_of
from dragonfly_lit.app.factories import (
    Components,
    build_components,
    look_up_parts,
    model_factory,
    modules_to_trust,
    read_chat,
)
from dragonfly_lit.app.known_warnings import silence_known_warnings
from dragonfly_lit.app.launch import check_processes, resolve_processes
from dragonfly_lit.app.loggers import build_loggers, log_answers, log_config, log_scores
from dragonfly_lit.app.objective import build_objective
from dragonfly_lit.app.overrides import search_path_of_job
from dragonfly_lit.app.room import look_for_room
from dragonfly_lit.app.runs import held_run, open_run
from dragonfly_lit.app.sample_answers import SampleAnswers
from dragonfly_lit.app.score import num_scored, score
from dragonfly_lit.app.sizes import check_image_fits
from dragonfly_lit.app.stage import build_stage
from dragonfly_lit.app.starts import find_starts, find_steps
from dragonfly_lit.app.sweep import run_job, write_result
from dragonfly_lit.app.trainer import build_trainer, check_flags
from dragonfly_lit.app.values import check_values
from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.io import disk
from dragonfly_lit.io.commands import as_typed, override
from dragonfly_lit.io.imports import import_trusted
from dragonfly_lit.io.text import counted
from dragonfly_lit.training.beside import Beside
from dragonfly_lit.training.callbacks import OWN, build_callbacks, check_own
from dragonfly_lit.training.checkpoint.locate import step_folder
from dragonfly_lit.training.module import TrainingModule
from dragonfly_lit.training.objectives import Objective
from dragonfly_lit.training.peers import Peers, Together, lost_a_peer
from dragonfly_lit.training.ranks import global_rank
from dragonfly_lit.training.stages import Stage
from dragonfly_lit.training.strategies import NamedCheckpoints
from dragonfly_lit.training.survival import Preemption
from dragonfly_lit.training.telemetry import Telemetry, by_kind

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float | None:
    """One run, or one job of a sweep; the validation loss where there is validation data.

    Raises:
        ValueError: the configuration, the data or a checkpoint is not what the run needs.
        SystemExit: with REQUEUE_STATUS, after a pre-emption.
    """
    config, overrides = plain(cfg), list(HydraConfig.get().overrides.task)
    check_recipe_overrides(overrides, config, OmegaConf.to_container(cfg.model.recipe, resolve=False))
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        check_values(config, "train")
        check_multirun()
        resolve_validation(config)
        read_chat(config)  # as the job will, which writes down the words and not the file
        check_objective(str(HydraConfig.get().sweeper["_target_"]), config["data"])
        return run_job(config, overrides, search_path_of_job())
    return fit(config)


def fit(config: Config) -> float | None:
    """One run of a resolved configuration; see `train`."""
    check_values(config, "train")
    resolve_processes(config)
    resolve_validation(config)
    check_processes(config)
    if "OMP_NUM_THREADS" not in os.environ:  # torch knows affinities, and neither quotas nor other ranks
        torch.set_num_threads(share_of(config).threads)
    # They meet before anything can fail on one of them alone; a wrong value is refused on all of them alike.
    with Peers(config["trainer"]["devices"], config["trainer"]["num_nodes"]) as peers:
        return _fit_together(config, peers)


def _fit_together(config: Config, peers: Peers) -> float | None:
    """What `fit` does while the other processes of the run do it too: one that fails ends all."""
    silence_known_warnings()
    check_train(config)
    check_flags(config["trainer"])
    device = DEVICES[config["trainer"]["accelerator"]]
    import_trusted(config["trust"])
    look_up_parts(config, file=None)
    components, stage = build_components(config, device), build_stage(config["stage"])
    objective = build_objective(config)
    check_image_fits(components.layout.num_tokens, config["model"]["max_tokens"])
    if device == "cuda" and (told := look_for_room(config)) and peers.rank == 0:
        log.warning(told)
    root = Path(config["runs_root"])
    # Loggers and callbacks of others write there too: an error of the disk that names no file is of this folder.
    with held_run(root, config["name"]) as held, disk.naming(root / config["name"]):
        return _fit(config, components, stage, objective, held, peers)


def _fit(
    config: Config, components: Components, stage: Stage, objective: Objective, held: ExitStack, peers: Peers
) -> float | None:
    """What `fit` does while no other process trains a run of this name."""
    own = build_own_callbacks(config)
    # Chosen once: another run may write a newer one between the looks of two ranks.
    resume, init_from = map(_path, peers.first("start", lambda: find_starts(config)))
    data = build_data(config, components.builder)
    data.preferences = objective.preferences
    prepare_data(data)
    images = peers.first("scored", lambda: num_scored(config))
    steps, told = peers.first("steps", lambda: find_steps(config, data, resume))
    config = {**config, "stage": {**config["stage"], "steps": steps}}
    stage = replace(stage, steps=steps)
    run = open_run(Path(config["runs_root"]), config["name"], config, resume=config["resume"] is not None, held=held)
    announce(run, resume, init_from, components.attention, f"{machine_line(config, data.num_workers)}\n{told}")
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    module = _module(config, components, stage, objective, init_from)
    beside = Beside()
    loggers = build_loggers(config["logger"], run, beside)
    log_config(loggers, config)
    shown = partial(log_answers, loggers, beside=beside)
    asker = SampleAnswers(components.processor, lambda: data.val_mix or data.mix, beside, then=shown)
    ours = {key: value for key, value in config["callbacks"].items() if key in OWN}
    callbacks = [
        Together(peers),
        *build_callbacks(run, answer=asker, beside=beside, own=own, num_scored=images, **ours),
    ]
    strategy = make({key: value for key, value in config["strategy"].items() if key != "name"}, where="strategy")
    if isinstance(strategy, NamedCheckpoints):
        strategy.peers = peers
    trainer = build_trainer(config, run, callbacks, loggers, strategy)
    started = time.monotonic()
    try:
        _train(trainer, module, data, resume, peers)
        preemption = next(callback for callback in callbacks if isinstance(callback, Preemption))
        if preemption.received:
            say_saved(run, trainer.global_step, config["stage"]["steps"])
            sys.exit(preemption.status)
        telemetry = next(callback for callback in callbacks if isinstance(callback, Telemetry))
        if config["data"]["val"] is not None and not telemetry.validated:
            # Killed after its last step, or stopped early, before it said how it went.
            trainer.validate(module, datamodule=data, verbose=False)
        seconds = time.monotonic() - started
        scores = {}
        if config.get("benchmark"):
            scores = score(config, run, module.model, components.processor, trainer.strategy.root_device)
            log_scores(loggers, scores, run, trainer.global_step, beside)
        return conclude(run, config, telemetry, scores, steps=trainer.global_step, seconds=seconds)
    finally:
        if failed := beside.summary():
            print(failed)


def _module(
    config: Config, components: Components, stage: Stage, objective: Objective, init_from: Path | None
) -> TrainingModule:
    build = model_factory(config, components)
    return TrainingModule(
        build,
        stage,
        objective=objective,
        model_name=config["model"]["name"],
        precision=config["trainer"]["precision"],
        gradients=config["trainer"]["gradients"],
        compile=config["trainer"]["compile"],
        init_from=init_from,
        skeleton_factory=partial(build, device="meta"),
    )


def _train(
    trainer: pl.Trainer, module: TrainingModule, data: DragonflyDataModule, resume: Path | None, peers: Peers
) -> None:
    """`trainer.fit`, whose errors are said as this project says them."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except MisconfigurationException as error:  # how Lightning says that parts of a configuration do not fit
        raise ValueError(" ".join(str(error).split())) from error
    except SystemExit as stop:  # how Lightning ends at Ctrl-C outside of training itself
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    except RuntimeError as error:
        if (lost := lost_a_peer(error)) is not None and peers.world > 1:
            raise lost from error
        if "conditioned on metric" not in str(error):
            raise
        raise ValueError(f"callbacks: {error}") from error  # a key that EarlyStopping waits for in vain


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def build_own_callbacks(config: Config) -> list[pl.Callback]:
    """The user's own callbacks: every key below `callbacks` that is not this project's, null left out.

    Raises:
        ValueError: one cannot be built, or would break what a run promises.
    """
    found = []
    for name, node in config["callbacks"].items():
        if name in OWN or node is None:
            continue
        if not isinstance(node, dict) or "_target_" not in node:
            raise ValueError(
                f"callbacks.{name}={node} has no _target_. Name a class: +callbacks.{name}._target_=CLASS."
            )
        callback = make(node, where=f"callbacks.{name}")
        check_own(name, callback, validates=config["data"]["val"] is not None)
        found.append(callback)
    return found


@rank_zero_only
def announce(run: Path, resume: Path | None, init_from: Path | None, attention: tuple[str, str], machine: str) -> None:
    """Where the run lies, what it starts from, which attention it computes, and what it uses of the machine."""
    start = f"goes on from {resume}" if resume else f"starts from {init_from}" if init_from else "starts afresh"
    print(f"{run} {start}.\nAttention: {attention[1]}.\n{machine}")


def machine_line(config: Config, readers: int) -> str:
    """One line: processors, threads, readers and precision of each process of a run."""
    trainer = config["trainer"]
    device = torch.cuda.get_device_name() if trainer["accelerator"] == "gpu" else "the CPU"
    cpus, threads = share_of(config).cpus, torch.get_num_threads()
    each = "" if trainer["devices"] * trainer["num_nodes"] == 1 else " for each process"
    return (
        f"Machine: {cpus} of {os.cpu_count()} processors{each}; threads: {threads}, data.num_workers: {readers}, "
        f"{trainer['precision']} on {device}."
    )


@rank_zero_only
def say_saved(run: Path, step: int, steps: int) -> None:
    """Where a run that was told to stop stands, and how it goes on."""
    print(
        f"Stopped after step {step} of {steps}; saved in {step_folder(run, step)}. The same command with resume=auto "
        "goes on from there."
    )


def scoring_arguments(config: Config, run: Path) -> list[str]:
    """Arguments with which evaluate.py scores a run, as they are typed in a shell."""
    modules = modules_to_trust(config)
    return [override("checkpoint", run), *([shlex.quote(f"trust=[{','.join(modules)}]")] if modules else [])]


def conclude(
    run: Path, config: Config, telemetry: Telemetry, scores: dict[str, Any], *, steps: int, seconds: float
) -> float | None:
    """Write what a sweep and a study read, say what comes next; the validation loss."""
    val_loss = telemetry.validated.get("val_loss")
    if global_rank() == 0:
        values: dict[str, Any] = {"val_loss": val_loss, "seconds": round(seconds, 1), **telemetry.last, **scores}
        write_result(run, config, values)
        kinds = by_kind(telemetry.last)  # else a loss of captions and answers stands beside one of answers alone
        then = "" if val_loss is None else f", validation loss {val_loss:.4f}"
        then += f", training loss {telemetry.last['loss']:.4f} ({kinds})" if kinds else ""
        wanted = config["stage"]["steps"]
        done = counted(steps, "step") if steps >= wanted else f"Step {steps} of {wanted} (resume=auto goes on)"
        print(as_typed(f"{done}{then}. Score it: python evaluate.py {' '.join(scoring_arguments(config, run))}"))
    return val_loss
