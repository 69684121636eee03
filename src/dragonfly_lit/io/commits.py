"""The commit of the clone whose code runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dragonfly_lit.io.commands import is_clone


def commit_of_clone() -> str | None:
    """The commit of the clone that runs, marked where files differ from it; None of an installation."""
    if not is_clone():
        return None
    root = Path(__file__).parent  # where the code lies: the configuration may be that of another clone
    said = [_git(root, "rev-parse", "--short=12", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")]
    return said[0] and f"{said[0]}{' with changes' if said[1] else ''}"


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or no repository: the page does without
    return done.stdout.strip()
