"""What a page of results says of its origin: model, run, step, date, command and commit."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from dragonfly_lit.io.commits import commit_of_clone


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
        "commit": commit_of_clone(),
    }
    return {name: value for name, value in found.items() if value}
