"""What a page of results says of its origin: model, run, step, date, command and commit."""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from dragonfly_lit.io.commands import is_clone


def how_made(scored: Path) -> dict[str, Any]:
    """Plain values, in the order in which they are shown; what is not known is left out.

    Args:
        scored: the checkpoint, run or model folder, or the file of predictions.
    """
    path = scored.resolve()
    in_run = path.parent.name == "checkpoints"
    found = {
        "model": str(scored),
        "run": path.parent.parent.name if in_run else path.name,
        "step": path.name if in_run else None,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
    }
    return {name: value for name, value in found.items() if value}


def _commit() -> str | None:
    """The commit of the clone that runs, marked where files differ from it; None of an installation."""
    if not is_clone():
        return None
    root = Path(str(files("dragonfly_lit.conf"))).parent
    said = [_git(root, "rev-parse", "--short=12", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")]
    return said[0] and f"{said[0]}{' with changes' if said[1] else ''}"


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or no repository: the page does without
    return done.stdout.strip()
