"""Images to model inputs: DragonflyProcessor against one Hugging Face image-processor call a crop, in one run.

The released way stretches the image by Pillow to each grid, cuts it into PIL crops and gives each crop to
transformers' CLIPImageProcessor (the PIL one), which yields normalised float32. Both ways run on one thread and on
the same decoded images, in turns; the numbers are samples a second of processor time, which a busy machine changes
least, and their ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import numpy as np
    import torch
    from PIL import Image
    from rich.console import Console
    from rich.table import Table
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from dragonfly_lit.processing.encoding import add_structural_tokens
    from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
    from dragonfly_lit.processing.processor import DragonflyProcessor
    from dragonfly_lit.processing.prompts import question_text
    from dragonfly_lit.spec.layout import Grid, Layout
    from dragonfly_lit.spec.released import LAYOUTS

TARGETS = {("v1", "640x480"): 5.0, ("v1", "1800x1500"): 8.0, ("v2", "640x480"): 10.0, ("v2", "1800x1500"): 10.0}
QUESTION = "What is so funny about this image?"


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth shapes with some noise: about what a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 40 + 1, width // 40 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = rng.integers(-12, 13, (height, width, 3), dtype=np.int16)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, so that nothing is downloaded; both ways pay for it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend)
    add_structural_tokens(fast)
    return fast


def released_way(layout: Layout, tok: PreTrainedTokenizerFast) -> Callable[[Image.Image], Any]:
    """The released preprocessing of one sample."""
    side, question = layout.image_size, question_text(QUESTION)
    clip = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    def crops(image: Image.Image, grid: Grid) -> list[Image.Image]:
        stretched = image.resize((grid.cols * side, grid.rows * side))
        boxes = [
            (c * side, r * side, c * side + side, r * side + side) for r in range(grid.rows) for c in range(grid.cols)
        ]
        return [stretched.crop(box) for box in boxes]

    def run(image: Image.Image) -> Any:
        grids = layout.grids(*image.size)
        cut = [crop for grid in (Grid(1, 1), grids.medium, grids.high) for crop in crops(image, grid)]
        pixels = torch.stack([clip(crop, return_tensors="pt")["pixel_values"][0] for crop in cut])
        return tok(question, return_tensors="pt")["input_ids"], pixels

    return run


def seconds(ways: dict[str, Callable[[Image.Image], Any]], images: list[Image.Image], rounds: int) -> dict[str, float]:
    """Median seconds of processor time a sample of each way; the ways take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for image in images:
            for name, way in ways.items():
                start = time.process_time()
                way(image)
                if i:
                    taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def measure(version: str, size: str, images: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    layout, tok = LAYOUTS["v1" if version == "v1" else "v2"], tokenizer()
    width, height = map(int, size.split("x"))
    question = question_text(QUESTION)
    fast = DragonflyProcessor(DragonflyImageProcessor.of(layout, "fast"), tok)
    pillow = DragonflyProcessor(DragonflyImageProcessor.of(layout, "pillow"), tok)
    taken = seconds(
        {
            "released": released_way(layout, tok),
            "pillow": lambda image: pillow(text=question, images=image),
            "fast": lambda image: fast(text=question, images=image),
        },
        [picture(width, height, seed) for seed in range(images)],
        rounds,
    )
    row: dict[str, Any] = {"version": version, "size": size}
    row |= {f"{name}_samples_per_second": round(1 / s, 1) for name, s in taken.items()}
    row["pillow_ratio"] = round(taken["released"] / taken["pillow"], 2)
    row["fast_ratio"] = round(taken["released"] / taken["fast"], 2)
    row["target"] = TARGETS.get((version, size))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", nargs="+", choices=sorted(LAYOUTS), default=sorted(LAYOUTS))
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1800x1500"], metavar="WIDTHxHEIGHT")
    parser.add_argument("--images", type=int, default=3, help="different images of a size (3)")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes over the images, after one untimed (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(version, size, args.images, args.rounds) for version in args.versions for size in args.sizes]
    table = Table(title="samples a second of one core, median; ratios are to the released way")
    for column in rows[0]:
        table.add_column(column.replace("_samples_per_second", "/s").replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
