"""A user's folder: the examples, copied to where a user would write into them."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_examples(folder: Path) -> Path:
    """Where they now are: `folder`/project."""
    return shutil.copytree(ROOT / "examples", folder / "project", ignore=shutil.ignore_patterns("__pycache__"))


def put_on_path(folder: Path, monkeypatch) -> None:
    """The parts in `folder` can be imported, whichever copy of them an earlier test imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_parts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(folder))


def enter_examples(folder: Path, monkeypatch) -> Path:
    """The same, as the current folder, whose modules can be imported."""
    copied = copy_examples(folder)
    monkeypatch.chdir(copied)
    put_on_path(copied, monkeypatch)
    return copied
