"""Which checkpoint, and for what: resume and init_from, the newest one, weights into a model with every key checked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from dragonfly_lit.io.atomic import PARTIAL
from dragonfly_lit.models.quantized import (
    BITS,
    check_quantize,
    quantization_of,
    quantized_layers,
    quantized_names,
    round_layers,
)
from dragonfly_lit.models.weights import stored_in, stored_tensors
from dragonfly_lit.training.checkpoint.format import (
    INFO_FILE,
    REPLACED,
    CheckpointInfo,
    read_info,
    saved_tensors,
    verify,
    verify_together,
)
from dragonfly_lit.training.checkpoint.storage import DamagedCheckpointError, read_tensors
from dragonfly_lit.training.lora import add_adapters, merge_adapters
from dragonfly_lit.training.network import named_weights, plain_name
from dragonfly_lit.training.objectives import Objective
from dragonfly_lit.training.optimizer import check_same_groups, check_same_optimizer, class_name
from dragonfly_lit.training.stages import Lora, Stage

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
WEIGHTS, OPTIMIZER, AVERAGES, REFERENCE = "weights/", "optimizer/", "averages/", "reference/"
ZOOM = "zoom."
"""How the weights of a zoom rule begin: the one part that a model without them may be given."""


def step_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps of `run` lies."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def list_checkpoints(run: Path) -> list[tuple[Path, CheckpointInfo]]:
    """The complete checkpoints of a run, oldest step first, as their `checkpoint.json` says; no other file is read."""
    found = []
    for folder in step_folders(run):
        try:
            found.append((folder, read_info(folder)))
        except (ValueError, OSError):
            continue  # unfinished, damaged, of another version, or just deleted by the run that trains there
    return found


def step_folders(run: Path) -> list[Path]:
    """Those of a run that were written to their end, oldest step first; what is in them may be damaged."""
    folders = sorted((run / CHECKPOINTS).glob("step-*/"))
    return [folder for folder in folders if not folder.name.endswith((PARTIAL, REPLACED))]


def find_resume(run: Path) -> Path | None:
    """The last whole checkpoint of a run, None where it has none; a warning names later ones that are damaged.

    Raises:
        ValueError: each is damaged: a run that starts again from nothing is for its owner to decide.
    """
    damaged: list[str] = []
    holds_something = False
    for folder in step_folders(run)[::-1]:
        if not (reason := damage_of(folder)):
            if damaged:
                log.warning("resume=auto: %s; %s is taken instead.", "; ".join(damaged), folder)
            return folder
        if not folder.is_dir():  # just deleted by the run that trains there
            continue
        holds_something |= any(folder.iterdir())
        damaged.append(f"{folder} is damaged ({reason})")
    if damaged:
        line = f"resume=auto: {'; '.join(damaged)}; there is no whole one before."
        if holds_something:  # an empty folder is no work that could be lost
            raise ValueError(f"{line} Repair one, or start afresh: resume=null.")
        log.warning(line)
    return None


def damage_of(folder: Path) -> str:
    """Why a checkpoint cannot be read, in a few words; empty where it is whole."""
    try:
        verify(folder)
    except (ValueError, OSError) as error:
        return error.reason if isinstance(error, DamagedCheckpointError) else str(error).rstrip(".")
    return ""


def resolve(path: Path) -> Path:
    """The newest checkpoint of a run folder; any other path as it is.

    Raises:
        ValueError: there is nothing to load.
    """
    if (path / CHECKPOINTS).is_dir():
        folders = step_folders(path)
        if not folders:
            raise ValueError(f"{path} has no complete checkpoint yet. Train longer, or name another run.")
        return folders[-1]
    if not path.exists():
        raise ValueError(
            f"{path} does not exist. Give a run, a checkpoint runs/NAME/checkpoints/step-N or a model folder."
        )
    return path


def whole(path: Path) -> Path:
    """`path`, its files compared with what was written where it is a checkpoint.

    Raises:
        ValueError: it is damaged.
    """
    if _is_checkpoint(path):
        verify(path)
    return path


def check_resume(
    info: CheckpointInfo,
    folder: Path,
    stage: Stage,
    model_name: str,
    optimizer: Optimizer,
    objective: Objective,
    quantize: str | None = None,
) -> None:
    """Refuses with `resume=` what is the job of `init_from=`.

    Raises:
        ValueError: the checkpoint is of another stage, model, optimizer, objective, format or set of weights.
    """
    for key, theirs, mine in (("stage", info.stage, stage.name), ("model", info.model, model_name)):
        if theirs != mine:
            raise ValueError(
                f"resume={folder} is of {key} {theirs}, this run is of {key} {mine}. resume= goes on with the same "
                f"{key}; to start from these weights use init_from={folder}."
            )
    if info.quantize != quantize:
        theirs, mine = (kind or "null" for kind in (info.quantize, quantize))
        raise ValueError(
            f"resume={folder} is of model.quantize={theirs}, this run of model.quantize={mine}: it would go on from "
            f"other weights. Set model.quantize={theirs}."
        )
    if info.objective != (mine := class_name(objective)):
        raise ValueError(
            f"resume={folder} was trained with the objective {info.objective}, this run has {mine}. Resume with "
            "the same objective, or use init_from= for the weights only."
        )
    check_same_optimizer(info.optimizer, optimizer, str(folder))
    check_same_groups(info.groups, optimizer, str(folder))


def check_init_from(path: Path, stage: Stage, model_name: str) -> None:
    """Refuses with `init_from=` what is the job of `resume=`.

    Raises:
        ValueError: the checkpoint is of another model, or of this stage and not at its end.
    """
    path = resolve(path)
    if not _is_checkpoint(path):
        return
    info = verify_together(path)
    if info.model != model_name:
        raise ValueError(
            f"init_from={path} is of model={info.model}, this run has model={model_name}. "
            f"Use a checkpoint of {model_name}, or model={info.model}."
        )
    if info.stage == stage.name and info.step < info.steps:
        raise ValueError(
            f"init_from={path} is this very stage {stage.name} at step {info.step} of {info.steps}. init_from= takes "
            f"weights only; to go on with optimizer and data position use resume={path}."
        )


def weights_behind(path: Path) -> Path | None:
    """For a checkpoint of trained weights only: where its run's frozen ones came from; else None."""
    info = read_info(resolve(path))
    return Path(info.init_from) if info.trainable_only and info.init_from is not None else None


def give_back(model: nn.Module) -> None:
    """Frees gathered weights of a sharded model, so that its parameters are the shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def network_tensors(model: nn.Module, *, trainable_only: bool = False) -> dict[str, Tensor]:
    """Live weights and saved buffers of a model by `weights/name`, sharded ones as shards."""
    give_back(model)
    parameters = named_weights(model)
    everything = {plain_name(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    everything |= {plain_name(name) for name in quantized_names(model)}  # of the run's config, and not floats
    buffers = {
        n: b for name, b in model.state_dict(keep_vars=True).items() if (n := plain_name(name)) not in everything
    }
    kept = {name: p for name, p in parameters.items() if p.requires_grad or not trainable_only}
    return {f"{WEIGHTS}{name}": tensor.detach() for name, tensor in (kept | buffers).items()}


def load_weights(model: nn.Module, path: Path, *, fresh: str | None = None) -> set[str]:
    """Copies weights into `model`, each into the type that it has there; averaged ones where a checkpoint has them.

    Args:
        model: plain, neither wrapped nor sharded.
        path: a run, a checkpoint, a folder in transformers' layout, or one safetensors file.
        fresh: how the names of a part begin that may stay as it is, where `path` has nothing of it.

    Returns:
        The names of the weights that stayed as they were for that reason.

    Raises:
        ValueError: a weight is missing, left over or of another shape, or the checkpoint is damaged.
    """
    path = resolve(path)
    if _is_checkpoint(path):
        return _load_checkpoint(model, path, fresh)
    stored = stored_in(path) if path.suffix == ".safetensors" else stored_tensors(path)
    live, rounded = _live(model), quantized_layers(model)  # straight into them, so that nothing is in memory twice
    left = _left(live, stored, fresh)
    saved = {name: torch.Size(tensor.shape) for name, tensor in stored.items()}
    _check_keys(_without(live, left), saved, path, partial=False)
    for name, tensor in stored.items():
        if name in rounded:
            rounded[name].fill(tensor.read())
        else:
            tensor.read_into(live[name])
    return left


def _is_checkpoint(path: Path) -> bool:
    """By its name too: one that has lost a file is not a folder of another layout."""
    return (path / INFO_FILE).is_file() or (path.parent.name == CHECKPOINTS and path.name.startswith("step-"))


def _left(live: Iterable[str], saved: Iterable[str], fresh: str | None) -> set[str]:
    """The weights that stay as they are: those of the part `fresh`, where nothing of it was saved."""
    if fresh is None or any(name.startswith(fresh) for name in saved):
        return set()
    return {name for name in live if name.startswith(fresh)}


def _without(tensors: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def _load_checkpoint(model: nn.Module, folder: Path, fresh: str | None) -> set[str]:
    info = verify(folder)
    _check_format(info, folder, quantization_of(model))
    left = _load_behind(model, folder, info, fresh)
    if info.lora_scale is None:
        return _read_into(model, folder, info, fresh, left)
    shapes, keys = _saved_weights(folder)
    live = _live(model)
    read = {name: torch.empty(size) for name, size in shapes.items()}
    read_tensors(folder, {keys[name]: tensor for name, tensor in read.items()})
    if info.trainable_only:  # the layers under the adapters come from the run's config
        layers = {name.split(".lora_")[0] for name in read if ".lora_" in name}
        read |= {f"{layer}.base_layer.weight": live[f"{layer}.weight"].clone() for layer in layers}
    merged = merge_adapters(read, info.lora_scale)
    if not info.trainable_only:
        left = _left(live, merged, fresh)
    _copy(model, merged, folder, partial=info.trainable_only, left=left)
    return left


def load_with_adapters(model: Any, path: Path, lora: Lora) -> None:
    """Puts adapters into a plain model and reads a checkpoint that has such, merging nothing: what its run trained.

    Args:
        model: as the run's factory builds it, or with floats where that has few bits.
        path: the checkpoint, or its run.
        lora: of the stage that trained them.

    Raises:
        ValueError: it is not a checkpoint of such adapters, or as `load_weights` says.
    """
    folder = resolve(path)
    info = verify(folder) if _is_checkpoint(folder) else None
    if info is None or info.lora_scale is None:
        raise ValueError(f"{folder} holds no adapters of its own. Give a run of stage.lora, or a checkpoint of one.")
    left = _load_behind(model, folder, info, None)
    add_adapters(model.language, lora)
    _read_into(model, folder, info, None, left)


def _load_behind(model: Any, folder: Path, info: CheckpointInfo, fresh: str | None) -> set[str]:
    """What a checkpoint leaves out, as its run had it: from where that began, and rounded where it was.

    Gives the names of weights that neither holds.
    """
    behind, left = weights_behind(folder), set[str]()
    if behind is not None:
        # What the run began afresh it has trained since, or nobody knows it any more.
        saved = saved_tensors(folder)
        left = {name for name in load_weights(model, behind, fresh=ZOOM) if WEIGHTS + name not in saved}
        if left and fresh != ZOOM:
            raise ValueError(
                f"{folder} does not hold {min(left)}, and neither does {behind}, where its run began: a zoom rule that "
                "begins afresh must train. Match zoom.* with a group of the stage."
            )
    if info.quantize is not None and quantization_of(model) is None:
        check_quantize(info.quantize, f"{folder}: quantize")
        round_layers(model.language, info.quantize)
    return left


def _check_format(info: CheckpointInfo, folder: Path, held: str | None) -> None:
    """ValueError where the weights of a checkpoint do not go into a model that is held in few bits."""
    if held is None:
        return
    if info.lora_scale is not None and info.trainable_only:
        raise ValueError(
            f"{folder} holds adapters, which are not merged into weights of {BITS[held]} bits (model.quantize={held}). "
            "Export it and start from that folder, or set model.quantize=null."
        )
    if info.quantize not in (None, held):
        raise ValueError(
            f"{folder} was trained with model.quantize={info.quantize}, and this model is held as {held}. Set "
            f"model.quantize={info.quantize}, or null."
        )


def _saved_weights(folder: Path) -> tuple[dict[str, torch.Size], dict[str, str]]:
    """Shapes of the weights of a checkpoint, and where each lies in it, by name; averages where it has them."""
    saved = saved_tensors(folder)
    shapes = {n.removeprefix(WEIGHTS): size for n, size in saved.items() if n.startswith(WEIGHTS)}
    return shapes, {name: AVERAGES + name if AVERAGES + name in saved else WEIGHTS + name for name in shapes}


def _read_into(model: nn.Module, folder: Path, info: CheckpointInfo, fresh: str | None, left: set[str]) -> set[str]:
    shapes, keys = _saved_weights(folder)
    live, rounded = _live(model), quantized_layers(model)
    if not info.trainable_only:
        left = _left(live, shapes, fresh)
    _check_keys(_without(live, left), shapes, folder, partial=info.trainable_only)
    read_tensors(folder, {keys[name]: live[name] for name in shapes if name not in rounded})
    for name in (name for name in shapes if name in rounded):  # one by one, as each is read as a float
        read_tensors(folder, {keys[name]: (weight := torch.empty(shapes[name]))})
        rounded[name].fill(weight)
    return left


def _live(model: nn.Module) -> dict[str, Tensor]:
    """Weights and saved buffers of a model by plain name; a meta tensor for a weight that is held in few bits."""
    found = {name.removeprefix(WEIGHTS): tensor for name, tensor in network_tensors(model).items()}
    rounded = quantized_layers(model)
    return found | {name: torch.empty(layer.shape, device="meta") for name, layer in rounded.items()}


def _copy(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, partial: bool, left: set[str]) -> None:
    live, rounded = _without(_live(model), left), quantized_layers(model)
    _check_keys(live, {name: tensor.shape for name, tensor in tensors.items()}, path, partial=partial)
    for name, tensor in tensors.items():
        if name in rounded:
            rounded[name].fill(tensor)
        else:
            live[name].copy_(tensor)


def _check_keys(live: Mapping[str, Tensor], saved: Mapping[str, torch.Size], path: Path, *, partial: bool) -> None:
    missing = set() if partial else set(live) - set(saved)
    unknown = set(saved) - set(live)
    if missing or unknown:
        examples = ", ".join(sorted(missing)[:2] + sorted(unknown)[:2])
        raise ValueError(
            f"{path} is of another model: {len(missing)} weights of this one are missing there and {len(unknown)} are "
            f"unknown here (for example {examples}). Use the model= and zoom= that it was trained with."
        )
    for name, shape in saved.items():
        if live[name].shape != shape:
            raise ValueError(
                f"{path} is of another model: {name} has shape {tuple(shape)} there and {tuple(live[name].shape)} "
                "here. Use the model=, vision= and language= that it was trained with."
            )
