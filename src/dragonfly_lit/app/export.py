"""`python -m dragonfly_lit export RUN FOLDER`: the weights of a run, as a folder that others can load."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from dragonfly_lit.app.card import card
from dragonfly_lit.app.known_warnings import hide_bars
from dragonfly_lit.app.load import load_for_inference, load_unmerged, lora_of, run_of
from dragonfly_lit.app.provenance import Trained, scores_of, trainings_of, write_lock
from dragonfly_lit.app.push import check_push, push
from dragonfly_lit.app.runs import read_config
from dragonfly_lit.evaluation.runner import weights_fingerprint
from dragonfly_lit.io import disk
from dragonfly_lit.io.console import told_if_slow
from dragonfly_lit.io.parsers import export_parser
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.weights import check_fits, stored_tensors
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.training.adapters import take_adapters, write_adapters
from dragonfly_lit.training.stages import Lora


def main(argv: list[str]) -> None:
    """Writes FOLDER with a model card: in transformers' layout, in the released one, or adapters alone in peft's.

    Raises:
        ValueError: RUN has no checkpoint, FOLDER is not empty, the model cannot be written in that layout, or the hub
            does not take it.
    """
    arguments = export_parser().parse_args(argv)
    hide_bars()
    folder: Path = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"FOLDER={folder} is not empty, and its files would be mixed with the model's. Name a new one."
        )
    if arguments.public and not arguments.push:
        raise ValueError("--public says who sees a repository, but there is none. Give --push OWNER/NAME.")
    if arguments.push:
        check_push(arguments.push)
    if arguments.base and arguments.layout != "peft":
        raise ValueError(f"--base {arguments.base} is of --layout peft, which leaves the model out. Leave it out.")
    lora = _lora_of(arguments.run) if arguments.layout == "peft" else None
    model, processor = load_for_inference(arguments.run, trust=arguments.trust)
    trainings = trainings_of(arguments.run)
    scores = scores_of(arguments.run, weights_fingerprint(model)["weights"])
    if lora is not None:
        del model  # of merged weights; it comes again with its adapters by themselves
        model = load_unmerged(arguments.run, trust=arguments.trust)
    if arguments.dtype:
        model.to(dtype=getattr(torch, arguments.dtype))  # pyright: ignore[reportCallIssue]
    # Of how it was read here, which is nothing to those who read it elsewhere.
    for name in ("is_local", "local_files_only"):
        processor.tokenizer.init_kwargs.pop(name, None)  # type: ignore[attr-defined]
    with disk.naming(folder), told_if_slow(f"Writing {folder} ..."):
        folder.mkdir(parents=True, exist_ok=True)
        if lora is not None:
            _write_apart(model, processor, lora, folder, arguments.base)
        elif arguments.layout == "released":
            model.save_released(folder)
            processor.tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
        else:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        name = arguments.push or folder.resolve().name
        told = card(name, model, trainings, scores, arguments.layout)
        (folder / "README.md").write_text(told, encoding="utf-8")
        if trainings:
            write_lock(folder, trainings)
    print(f"{arguments.run} is now in {folder}, {arguments.layout} layout.{_rounded(trainings)}")
    if arguments.push:
        print(f"and in {push(folder, arguments.push, public=arguments.public)}")


def _lora_of(path: Path) -> Lora:
    """The adapters that a run trained.

    Raises:
        ValueError: it is not a run, or trained none.
    """
    run = run_of(path)
    lora = None if run is None else lora_of(read_config(run), run)
    if lora is None:
        raise ValueError(f"--layout peft: {path} has no adapters of stage.lora by themselves. Leave --layout out.")
    return lora


def _write_apart(
    model: DragonflyForConditionalGeneration, processor: DragonflyProcessor, lora: Lora, folder: Path, base: Path | None
) -> None:
    """The adapters, and below them their model or the way to it.

    Raises:
        ValueError: `base` is not that model.
    """
    adapters = take_adapters(model)
    if base is not None:
        _check_base(model, base)  # before anything is written, so that the command can be given again
    name = "base" if base is None else os.path.relpath(base, folder)
    write_adapters(adapters, folder, lora, name)
    if base is None:
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)


def _check_base(model: DragonflyForConditionalGeneration, base: Path) -> None:
    stored = stored_tensors(base)
    for key, weight in check_fits(model, stored, base).items():
        if not torch.equal(stored[key].read().to(weight.dtype), weight):
            raise ValueError(
                f"--base {base}: {key} is not what these adapters were trained with. Leave --base out: then "
                "the model below them is written into FOLDER/base."
            )


def _rounded(trainings: Sequence[Trained]) -> str:
    """What is to be said of a model whose last stage trained beside few bits."""
    kind = trainings[0].config["model"].get("quantize") if trainings else None
    if kind is None:
        return ""
    return f" The language model's weights are what {kind} made of them, as in training, written as floats."
