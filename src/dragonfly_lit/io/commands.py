"""How this project's commands are typed: the scripts of a clone, or the entry points that an installation brings."""

from __future__ import annotations

import signal
import sys
from importlib.resources import files
from pathlib import Path

ENTRY_POINTS = {
    "python train.py": "dragonfly-train",
    "python evaluate.py": "dragonfly-evaluate",
    "python -m data_prep": "dragonfly-data",
    "python -m dragonfly_lit": "dragonfly",
}
"""By the spelling of a clone, which is how messages and help texts are written."""
INTERRUPT_STATUS = 128 + signal.SIGINT
"""Exit status of a command that Ctrl-C ended, as shells have it."""


def as_typed(text: str) -> str:
    """A text that names commands as a clone has them; the entry points where one was started or there is no clone."""
    if Path(sys.argv[0]).stem not in ENTRY_POINTS.values() and is_clone():
        return text
    for script, entry_point in ENTRY_POINTS.items():
        text = text.replace(script, entry_point)
    return text


def is_clone() -> bool:
    """Whether the configuration lies in a clone, beside the scripts; an installation has it inside the package."""
    return (Path(str(files("dragonfly_lit.conf"))).parent / "pyproject.toml").is_file()


def put_current_folder_on_path() -> None:
    """Let a `_target_` name a module of the user's own in the folder where the command is typed.

    Last, so that a file there which is called like a library is not taken for it.
    """
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
