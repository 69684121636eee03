"""Rules across groups, checked on the plain configuration before any weight is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from dragonfly_lit.app.launch import check_processes, launched
from dragonfly_lit.app.stage import AUTO
from dragonfly_lit.models.quantized import check_quantize
from dragonfly_lit.training.precision import check_precision

REPOSITORIES = {
    "clip-vit-base-patch32": "openai/clip-vit-base-patch32",
    "clip-vit-large-patch14-336": "openai/clip-vit-large-patch14-336",
    "siglip-so400m-patch14-384": "google/siglip-so400m-patch14-384",
    "Meta-Llama-3-8B-Instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "Meta-Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B-Instruct",
    "SmolLM2-135M-Instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
"""On the Hugging Face hub, by the folder that `conf/vision` and `conf/language` name."""
DEVICES = {"cpu": "cpu", "gpu": "cuda"}


def check_train(config: dict[str, Any]) -> None:
    """ValueError for a combination that cannot run: the key, the value and the way out."""
    trainer = config["trainer"]
    if trainer["accelerator"] not in DEVICES:
        raise ValueError(f"trainer.accelerator={trainer['accelerator']} is unknown. Use one of {', '.join(DEVICES)}.")
    check_processes(config)
    missing = trainer["accelerator"] == "gpu" and not torch.cuda.is_available()
    if not (missing and trainer["precision"] == "fp8"):  # which asks the GPU
        check_precision(trainer["precision"], torch.device(DEVICES[trainer["accelerator"]]), trainer["gradients"])
    _check_quantize(config)
    _check_start(config)
    for group in ("vision", "language"):
        check_weights(group, config[group]["path"], config)
    # Last: what is said before can be mended on any machine.
    if missing:
        raise ValueError("trainer.accelerator=gpu: torch finds no CUDA device here. Use trainer=cpu.")
    if trainer["accelerator"] == "gpu" and trainer["devices"] > torch.cuda.device_count():
        raise ValueError(
            f"trainer.devices={trainer['devices']}: torch finds {torch.cuda.device_count()} here. Use fewer; under "
            "SLURM let each task see all GPUs of its node, by --gpus-per-node and not --gpus-per-task."
        )


def check_multirun(num_processes: int | None = None) -> None:
    """A sweep inside a launch of several processes would start itself once a process."""
    launch = launched()
    world = num_processes or (launch.world if launch else 1)
    if world > 1:
        raise ValueError(
            f"--multirun was started by {world} processes, and each would run the whole sweep. Start it once, "
            "without torchrun or srun, with hydra/launcher=submitit_slurm or trainer.devices=N for its jobs."
        )


def check_recipe_overrides(overrides: list[str], config: dict[str, Any], recipes: Any) -> None:
    """A value of `model.recipe` on the command line that this run does not look at.

    Args:
        overrides: of the command line.
        config: resolved.
        recipes: the node `model.recipe` before interpolations are resolved: a stage may take another's recipe.
    """
    stage, batch = str(config["stage"]["name"]), config["data"].get("batch") or {}
    used = [name for name in recipes if name == stage or f"recipe.{name}}}" in str(recipes.get(stage))]
    for item in overrides:
        key, _, value = item.lstrip("+").partition("=")
        if key in (f"model.recipe.{stage}.samples", "stage.samples") and config["stage"]["steps"] != AUTO:
            raise ValueError(
                f"{key}={value} has no effect with stage.steps={config['stage']['steps']}. Add stage.steps=auto."
            )
        if not (found := re.fullmatch(r"model\.recipe\.([^.]+)(?:\.(\w+))?", key)):
            continue
        if found[1] not in used:
            raise ValueError(
                f"{key}={value} has no effect with stage={stage}. Set model.recipe.{used[0] if used else stage}, or "
                f"train stage={found[1]}."
            )
        if found[2] == "batch_size" and batch.get("mode") == "packed":
            raise ValueError(
                f"{key}={value} has no effect with data.batch.mode=packed: as many samples go into a row as fit. Set "
                "data.batch.max_tokens, the length of a row, or data.batch.mode=padded."
            )
        if found[2] == "batch_size" and batch.get("size") is not None:
            raise ValueError(f"{key}={value} has no effect: data.batch.size={batch['size']} is set. Give one of them.")


def check_objective(sweeper: str, data: dict[str, Any]) -> None:
    """A sweeper that searches needs what it lowers, the validation loss."""
    if not sweeper.endswith(".BasicSweeper") and data["val"] is None:
        raise ValueError(
            f"data.val=null with the sweeper {sweeper}: it has no validation loss to lower. Give data.val sources, or "
            "sweep over a list without hydra/sweeper."
        )


def check_weights(group: str, path: str, config: dict[str, Any]) -> None:
    """The pretrained part `group` is on disk, unless a released checkpoint brings it."""
    if path == "builtin" or (group == "language" and config["model"]["released"]):
        return
    if not Path(path).exists():
        repository = REPOSITORIES.get(Path(path).name, "REPOSITORY")
        raise ValueError(
            f"{group}.path={path} does not exist. Download it there (`hf download {repository} --local-dir {path}`), "
            f"set {group}.path or weights_root to where it lies, or use model=tiny."
        )


def _check_quantize(config: dict[str, Any]) -> None:
    kind = config["model"].get("quantize")
    check_quantize(kind)
    if kind is None:
        return
    for key, value, why in (
        ("strategy", "fsdp", "only floats are sharded. Use strategy=ddp, or single"),
        ("trainer.precision", "fp8", "its frozen layers would compute in another type. Use trainer.precision=bf16"),
    ):
        node, _, name = key.partition(".")
        if config[node][name or "name"] == value:
            raise ValueError(f"model.quantize={kind} with {key}={value}: {why}, or set model.quantize=null.")


def _check_start(config: dict[str, Any]) -> None:
    for key in ("resume", "init_from"):
        value = config[key]
        if value not in (None, "auto") and not Path(value).exists():
            raise ValueError(f"{key}={value} does not exist. Give a run folder, a checkpoint, or {key}=auto.")
    if config["resume"] not in (None, "auto") and config["init_from"] not in (None, "auto"):
        raise ValueError(
            f"resume={config['resume']} goes on with everything, init_from={config['init_from']} starts anew from "
            "weights: give one of them."
        )
