"""`stats`: turns, images, sizes and characters of folders of shards, from their sidecars; tokens with a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.scan import Row
from dragonfly_lit.data.shards import Shards
from dragonfly_lit.io.console import standard_output
from dragonfly_lit.io.text import counted
from dragonfly_lit.processing.prompts import render
from dragonfly_lit.spec.samples import Turn

from .arguments import command_parser
from .progress import follow

BINS = 8
BAR_WIDTH = 30


def text_tokens(shards: Shards, folder: Path) -> list[int]:
    """Tokens of each readable sample's turns with their headers, images not counted.

    Args:
        shards: the samples.
        folder: of the tokenizer.
    """
    from dragonfly_lit.io.foreign import read_tokenizer

    if not folder.is_dir():
        raise ValueError(f"--tokenizer {folder}: no such folder.")
    tokenizer = read_tokenizer(folder, where=f"--tokenizer {folder}")
    found = []
    for index in follow(range(len(shards)), "counting tokens", len(shards)):
        try:
            record = shards[index]
            text = render(record.turns) + render([Turn(role="assistant", text=record.rejected)] * bool(record.rejected))
        except ValueError:  # a bad sample; training leaves it out too, and `lint` says why
            continue
        found.append(len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]))
    return found


def measures(rows: Sequence[Row], num_tokens: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """The numbers of a data set by name, one a sample (sides: one a sample with an image)."""
    sided = [row for row in rows if row.num_images]
    found = {
        "turns": np.array([row.turns for row in rows]),
        "images": np.array([row.num_images for row in rows]),
        "characters": np.array([row.chars for row in rows]),
    }
    if num_tokens is not None:
        found["text tokens"] = np.array(num_tokens)
    if sided:
        found["longest side, px"] = np.array([max(row.width, row.height) for row in sided])
        found["shortest side, px"] = np.array([min(row.width, row.height) for row in sided])
    return found


def summary(found: dict[str, np.ndarray]) -> Table:
    """Sum, mean and quantiles of every measure."""
    shown = Table("a sample", *("sum", "mean", "least", "median", "95%", "most"), box=None)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, values in found.items():
        total = "" if name.endswith("px") else f"{values.sum():,}"
        quantiles = (f"{np.quantile(values, q):,.0f}" for q in (0, 0.5, 0.95, 1))
        shown.add_row(name, total, f"{values.mean():,.1f}", *quantiles)
    return shown


def histogram(name: str, values: np.ndarray) -> Table:
    """How many samples lie in each of `BINS` equal ranges; a bar is as long as the fullest range is full."""
    edges = np.unique(np.linspace(values.min(), values.max() + 1, BINS + 1).round().astype(int))
    counts, _ = np.histogram(values, bins=edges)
    shown = Table(name, "samples", "", box=None)
    for start, end, count in zip(edges[:-1], edges[1:], counts, strict=True):
        label = f"{start}" if end - start == 1 else f"{start} to {end - 1}"
        shown.add_row(label, f"{count:,}", "█" * round(BAR_WIDTH * count / counts.max()))
    return shown


def main(argv: list[str]) -> int:
    """Print the numbers of each folder."""
    parser = command_parser("stats", __doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a folder of shards")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer's folder: count tokens too (reads every sample)")
    parser.add_argument("--histogram", action="store_true", help="show how each number is spread")
    given = parser.parse_args(argv)
    console = standard_output(markup=False)
    for folder in given.folders:
        shards = open_dataset(folder)
        rows = [row for number in range(len(shards.entries)) for row in shards.rows(number)]
        found = measures(rows, text_tokens(shards, given.tokenizer) if given.tokenizer else None)
        num_bytes = sum(entry.num_bytes for entry in shards.entries)
        preferences = sum(row.preference for row in rows)
        console.print(
            f"{folder}: {counted(len(rows), 'sample')} in {counted(len(shards.entries), 'shard')}, "
            f"{num_bytes / 1e6:,.1f} MB; "
            f"{sum(not row.num_images for row in rows):,} text only, "
            f"{sum(row.share_image for row in rows):,} with questions that share an image, "
            f"{f'{preferences:,} preferences, ' if preferences else ''}"
            f"{len({row.image_checksum for row in rows if row.num_images}):,} different images, "
            f"{sum(bool(row.error) for row in rows):,} unreadable.",
            highlight=False,
            soft_wrap=True,
        )
        console.print(summary(found))
        if given.histogram:
            for name, values in found.items():
                console.print(histogram(name, values))
    return 0
