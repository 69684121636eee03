"""`python -m dragonfly_lit export RUN FOLDER`: the weights of a run, as a folder that others can load."""

from __future__ import annotations

from pathlib import Path

import torch

from dragonfly_lit.app.load import load_for_inference
from dragonfly_lit.io import disk
from dragonfly_lit.io.parsers import export_parser


def main(argv: list[str]) -> None:
    """Writes FOLDER in transformers' layout (weights, config, processor) or in the released one.

    Raises:
        ValueError: RUN has no checkpoint, FOLDER is not empty, or the model cannot be written in that layout.
    """
    arguments = export_parser().parse_args(argv)
    folder: Path = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"FOLDER={folder} is not empty, and its files would be mixed with the model's. Name a new one."
        )
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    model, processor = load_for_inference(arguments.run, dtype=dtype, trust=arguments.trust)
    with disk.naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.layout == "released":
            model.save_released(folder)
            processor.tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
        else:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
    print(f"{arguments.run} is now in {folder}, {arguments.layout} layout.")
