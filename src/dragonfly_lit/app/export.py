"""`python -m dragonfly_lit export RUN FOLDER`: the weights of a run, as a folder that others can load."""

from __future__ import annotations

from pathlib import Path

import torch

from dragonfly_lit.app.card import card
from dragonfly_lit.app.load import load_for_inference
from dragonfly_lit.app.provenance import scores_of, trainings_of, write_lock
from dragonfly_lit.app.push import check_push, push
from dragonfly_lit.evaluation.runner import weights_fingerprint
from dragonfly_lit.io import disk
from dragonfly_lit.io.parsers import export_parser


def main(argv: list[str]) -> None:
    """Writes FOLDER in transformers' layout (weights, config, processor) or in the released one, with a model card.

    Raises:
        ValueError: RUN has no checkpoint, FOLDER is not empty, the model cannot be written in that layout, or the hub
            does not take it.
    """
    arguments = export_parser().parse_args(argv)
    folder: Path = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"FOLDER={folder} is not empty, and its files would be mixed with the model's. Name a new one."
        )
    if arguments.public and not arguments.push:
        raise ValueError("--public says who sees a repository, but there is none. Give --push OWNER/NAME.")
    if arguments.push:
        check_push(arguments.push)
    model, processor = load_for_inference(arguments.run, trust=arguments.trust)
    trainings = trainings_of(arguments.run)
    scores = scores_of(arguments.run, weights_fingerprint(model)["weights"])
    if arguments.dtype:
        model.to(dtype=getattr(torch, arguments.dtype))  # pyright: ignore[reportCallIssue]
    # Of how it was read here, which is nothing to those who read it elsewhere.
    for name in ("is_local", "local_files_only"):
        processor.tokenizer.init_kwargs.pop(name, None)  # type: ignore[attr-defined]
    with disk.naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.layout == "released":
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
    print(f"{arguments.run} is now in {folder}, {arguments.layout} layout.")
    if arguments.push:
        print(f"and in {push(folder, arguments.push, public=arguments.public)}")
