"""How this project's commands are typed: the scripts of a clone, or the entry points that an installation brings."""

from __future__ import annotations

import os
import re
import shlex
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
SCRIPTS = ("train.py", "evaluate.py")
"""Of a clone, beside one another."""
NOT_TEXTS = ("null", "true", "false", "on", "off", "yes", "no", "inf", "nan")
"""Words that Hydra or YAML takes for something else."""
INTERRUPT_STATUS = 128 + signal.SIGINT
"""Exit status of a command that Ctrl-C ended, as shells have it."""
SET_BY_US = "DRAGONFLY_LIT_FULL_ERROR_IS_OURS"
"""In the environment where this project has set HYDRA_FULL_ERROR; the ranks that Lightning starts inherit both."""


def wants_traceback() -> bool:
    """Whether the user asks for the traceback of an error that is told in one line, by HYDRA_FULL_ERROR=1."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1" and SET_BY_US not in os.environ


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a library that is stopped in its work may raise another while it cleans up.

    Args:
        error: that has reached a command.
    """
    behind: list[BaseException] = []
    ahead = [error]
    while ahead:
        one = ahead.pop()
        if one is not None and all(one is not seen for seen in behind):
            behind.append(one)
            ahead += [one.__cause__, one.__context__]
    return any(isinstance(one, KeyboardInterrupt) for one in behind)


def as_typed(text: str) -> str:
    """A text that names commands as a clone has them, from the folder where one was typed.

    The entry points where one was started or there is no clone; `python ../train.py` where that was typed.
    """
    typed = Path(sys.argv[0])
    if typed.stem not in ENTRY_POINTS.values() and is_clone():
        of_clone = typed.name in SCRIPTS and typed.with_name("pyproject.toml").is_file()  # no module that has this name
        for script in SCRIPTS if of_clone else ():
            text = text.replace(f"python {script}", f"python {shlex.quote(str(typed.with_name(script)))}")
        return text
    for script, entry_point in ENTRY_POINTS.items():
        text = text.replace(script, entry_point)
    return text


def spelled(key: str, value: str) -> str:
    """An override of Hydra whose value is this text and nothing else, as one argument of a command."""
    # Within quotes, Hydra takes a backslash for itself only before a quote or another backslash that leads to one.
    inside = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" + found[2] if found[2] else ""), value)
    return f'{key}="{inside}"'


def quoted(key: str, value: str) -> str:
    """The same as it is typed in a shell."""
    return shlex.quote(spelled(key, value))


def override(key: str, value: object) -> str:
    """The same, quoted only where the shell or Hydra would read a character of the value as its own."""
    text = str(value)
    is_plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", text) and text.lower() not in NOT_TEXTS
    return f"{key}={text}" if is_plain else quoted(key, text)


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
