"""A folder like a fresh clone."""

from __future__ import annotations

from pathlib import Path

from docs_pages import ROOT

LINKED = (
    "train.py", "evaluate.py", "conf", "data_prep", "docs", "src", "tests", "tools", "benchmarks", "pyproject.toml",
    "constraints.txt",
)  # fmt: skip
SHORTER = {
    "train": (
        "stage.steps=2", "stage.accumulate=1", "data.num_workers=0", "trainer.limit_val_batches=1",
        "callbacks.answers=null",
    ),
    "evaluate": ("benchmark.limit=4", "resamples=10", "gallery=2"),
}  # fmt: skip
"""Overrides that make a command short, where it does not say so itself."""


def link_clone(folder: Path) -> None:
    """What a clone has, as links; `examples` is copied, since a user writes into it."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
