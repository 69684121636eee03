"""A user's folder: the examples, copied to where a user would write into them."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_examples(folder: Path) -> Path:
    """Where they now are: `folder`/project."""
    return shutil.copytree(ROOT / "examples", folder / "project", ignore=shutil.ignore_patterns("__pycache__"))


def enter_examples(folder: Path, monkeypatch) -> Path:
    """The same, as the current folder, whose modules can be imported."""
    copied = copy_examples(folder)
    monkeypatch.chdir(copied)
    monkeypatch.syspath_prepend(str(copied))
    return copied
