"""A model and its processor from whatever a user has: a run, a checkpoint, a transformers or a released folder."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import torch

from dragonfly_lit.app.device import usable_device
from dragonfly_lit.app.factories import Config, build_components, look_up_parts, model_factory
from dragonfly_lit.app.newest import find_finished
from dragonfly_lit.app.runs import CONFIG_FILE, read_config
from dragonfly_lit.io.commands import override
from dragonfly_lit.io.console import told_if_slow
from dragonfly_lit.io.foreign import foreign, read_json
from dragonfly_lit.io.imports import import_trusted
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.quantized import Quantize, check_quantize, quantize_layers
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.training.adapters import base_of, holds_adapters, read_adapters
from dragonfly_lit.training.checkpoint.locate import (
    CHECKPOINTS,
    list_checkpoints,
    load_weights,
    load_with_adapters,
)
from dragonfly_lit.training.stages import Lora

Loaded = tuple[DragonflyForConditionalGeneration, DragonflyProcessor]
WEIGHTS = (".safetensors", ".bin")
"""Suffixes of the files that take long to read."""


def find_checkpoint(checkpoint: str, runs_root: str) -> Path:
    """The path that `checkpoint` means; `auto` is the newest finished run, which is said.

    Raises:
        ValueError: there is none.
    """
    if checkpoint != "auto":
        if not Path(checkpoint).exists():
            raise ValueError(f"checkpoint={checkpoint} does not exist. Give a run, a checkpoint or a model folder.")
        return Path(checkpoint)
    found = find_finished(Path(runs_root))
    if found.checkpoint is not None:
        if os.environ.get("RANK", "0") == "0":
            print(
                f"checkpoint=auto scores {found.taken}, the newest finished run below runs_root={runs_root}."
                f"{found.passed_over()} Another is scored by checkpoint=PATH."
            )
        return found.checkpoint
    if found.passed:
        raise ValueError(
            f"checkpoint=auto takes the newest finished run, and below runs_root={runs_root} none has finished."
            f"{found.passed_over()} Score one all the same: {override('checkpoint', found.passed[0].run)}"
        )
    raise ValueError(
        f"checkpoint=auto finds no checkpoint below runs_root={runs_root}. Run `python train.py stage=1` first, "
        "or give checkpoint=PATH."
    )


def results_root(checkpoint: Path) -> Path:
    """Where the results of a checkpoint lie, however it was named: a run and its last checkpoint are one model.

    Args:
        checkpoint: a run, a checkpoint of one, or a model folder.
    """
    place = checkpoint.absolute()
    if place.parent.name != CHECKPOINTS:
        return checkpoint / "evaluation"
    run = Path(os.path.normpath(checkpoint / "../.."))
    others = [folder.name for folder, _ in list_checkpoints(run)]
    is_last = [place.name] == others[-1:]
    return run / "evaluation" if is_last else run / "evaluation" / place.name


def load_for_inference(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    version: str | None = None,
    vision: str | None = None,
    trust: Iterable[str] = (),
    quantize: Quantize | None = None,
    base: Path | None = None,
) -> Loaded:
    """The model in eval mode on `device`, and its processor.

    Args:
        path: a run, a checkpoint of a run, a folder in transformers' layout, a released folder, or one of adapters.
        device: where the model goes.
        dtype: of the weights; None keeps what they were saved in.
        version: `v1` or `v2`, for a released folder, which does not say.
        vision: folder of the vision tower's config, for a released folder.
        trust: modules of the user's own whose classes a run or a model folder may name as its parts.
        quantize: holds the language model's linear layers in few bits; adapters then stay beside them.
        base: of a folder of adapters, the model below them; None is the folder that they name.

    Raises:
        ValueError: the path is none of these, or something of it is missing.
    """
    import_trusted(trust)
    check_quantize(quantize, "quantize")
    with told_if_slow(reading(path)):
        model, processor = _load(path, device, dtype, version, vision, quantize, base)
        # transformers wraps `to` in a way that pyright cannot see through
        return model.to(device=device, dtype=dtype).eval(), processor  # pyright: ignore[reportCallIssue]


def reading(path: Path) -> str:
    """What is told while the weights of a folder are read: the folder, and how much lies in it itself."""
    files = path.iterdir() if path.is_dir() else ()
    size = sum(file.stat().st_size for file in files if file.suffix in WEIGHTS and file.is_file())
    return f"Reading {f'{size / 1e9:.1f} GB of weights' if size else 'the weights'} from {path} ..."


def _load(
    path: Path,
    device: torch.device | str,
    dtype: torch.dtype | None,
    version: str | None,
    vision: str | None,
    quantize: Quantize | None,
    base: Path | None,
) -> Loaded:
    """The model as its files have it; the other arguments are those of `load_for_inference`."""
    adapters = holds_adapters(path)
    if base is not None and not adapters:
        raise ValueError(f"base={base} is of a folder of adapters, and {path} is not one. Leave it out.")
    run = None if adapters else run_of(path)
    if adapters:
        below = base_of(path) if base is None else base
        if holds_adapters(below):
            raise ValueError(f"{below} holds adapters too, and they are put onto a model. Give base=FOLDER of one.")
        model, processor = load_for_inference(
            below, device=device, dtype=dtype, version=version, vision=vision, quantize=quantize
        )
        read_adapters(model, path)
    elif run is not None:
        model, processor = _from_run(run, path, device, quantize)
    elif _is_released(path):
        if version is None:
            raise ValueError(f"{path} is a released checkpoint, which does not say its version. Give version=v1 or v2.")
        model = DragonflyForConditionalGeneration.from_released(
            path,
            vision=vision,
            version=version,
            dtype=dtype or torch.bfloat16,
            device=device if quantize else "cpu",
            quantize=quantize,
        )
        processor = DragonflyProcessor.from_released(path, vision=vision, version=version)
    else:
        model, processor = _from_folder(path, device, dtype, quantize)
    return model, processor


def load_named(args: Namespace) -> Loaded:
    """The model and processor that the options of a command line name; in float32 on a CPU, in bfloat16 elsewhere.

    Raises:
        ValueError: as `load_for_inference`.
    """
    device = usable_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"), "--device")
    dtype = getattr(torch, args.dtype) if args.dtype else torch.float32 if device == "cpu" else torch.bfloat16
    return load_for_inference(
        args.model,
        device=device,
        dtype=dtype,
        version=args.version,
        vision=args.vision,
        trust=args.trust,
        quantize=args.quantize,
        base=args.base,
    )


def _from_folder(
    path: Path, device: torch.device | str, dtype: torch.dtype | None, quantize: Quantize | None
) -> Loaded:
    """From transformers' layout; nothing that such a folder holds is trusted."""
    kind = _model_type(path)
    if kind != DragonflyConfig.model_type:
        found = "it has no config.json" if kind is None else f"its config.json is of a {kind}"
        raise ValueError(
            f"{path} is neither a run, a checkpoint, a transformers folder nor a released folder: {found}."
        )
    if quantize is None:
        model = DragonflyForConditionalGeneration.from_exported(path)
    else:
        model = DragonflyForConditionalGeneration.from_exported(path, dtype, device, quantize)
    with foreign(str(path), path):
        processor = DragonflyProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return model, processor


def _from_run(run: Path, path: Path, device: torch.device | str, quantize: Quantize | None) -> Loaded:
    """As it was trained where that was in the same few bits; else its floats, which are rounded then."""
    config = read_config(run)
    trained, lora = config["model"].get("quantize"), lora_of(config, run)
    if quantize is not None and trained not in (None, quantize):
        raise ValueError(
            f"quantize={quantize}: {run} was trained with model.quantize={trained}. Give that, or null for floats."
        )
    same = trained is not None and trained == quantize
    config["model"]["quantize"] = trained if same else None
    look_up_parts(config, file=run / CONFIG_FILE)
    components = build_components(config)
    model = model_factory(config, components)(str(device) if same else "cpu")
    if same and lora is not None:
        load_with_adapters(model, path, lora)
    else:
        load_weights(model, path)
    if quantize is not None and not same:
        quantize_layers(model.language, quantize, device=device)
    return model, components.processor


def load_unmerged(path: Path, *, trust: Iterable[str] = ()) -> DragonflyForConditionalGeneration:
    """The model of a run of adapters, in floats, with its adapters beside them.

    Args:
        path: the run, or a checkpoint of it.
        trust: as in `load_for_inference`.

    Raises:
        ValueError: it is not such a run.
    """
    import_trusted(trust)
    run = run_of(path)
    lora = None if run is None else lora_of(read_config(run), run)
    if run is None or lora is None:
        raise ValueError(f"{path} is not a run of stage.lora, and has no adapters by themselves.")
    config = read_config(run)
    config["model"]["quantize"] = None
    look_up_parts(config, file=run / CONFIG_FILE)
    model = model_factory(config, build_components(config))()
    load_with_adapters(model, path, lora)
    return model.eval()


def lora_of(config: Config, run: Path) -> Lora | None:
    """The adapters that a run trained, by plain numbers alone: its file is read, not believed.

    Raises:
        ValueError: they are not described as this version describes them.
    """
    node = config.get("stage", {}).get("lora")
    if node is None:
        return None
    with foreign(f"{run / CONFIG_FILE}: stage.lora"):
        return Lora(**{key: value for key, value in node.items() if key != "_target_"})


def run_of(path: Path) -> Path | None:
    """The run that `path` is, or lies in."""
    return next((folder for folder in (path, *path.resolve().parents[:2]) if (folder / CONFIG_FILE).is_file()), None)


def _is_released(path: Path) -> bool:
    return _model_type(path) == "dragonfly"


def _model_type(path: Path) -> object:
    file = path / "config.json"
    return read_json(file).get("model_type") if file.is_file() else None
