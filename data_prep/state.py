"""`.pack/`, where a run of `pack` keeps what is not finished: its plan, a mark of each shard that is done, its lists.

Each of several machines that share the work has one of its own, `.pack-2-of-8/`. They go when `dataset.json` and the
data card are in their places. So whatever else lies in the folder of the shards is never touched, and what is cleaned
away after a kill is cleaned in `.pack/`, and by the names that are given here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dragonfly_lit.io import atomic
from dragonfly_lit.io.lock import LOCK_FILE
from dragonfly_lit.spec.shard import DATASET_FILE

STATE_FOLDER = ".pack"
PLAN_FILE = "plan.json"
REPORT_FILE = "report.json"
SKIPPED_FILE = "skipped.jsonl"
DONE_FILE = "done.json"
"""That a machine's part is done, and how many rows and shards there are in all."""
DUPLICATES_FILE = "duplicates.jsonl"
CARD_FILE = "data_card.md"
SHEET_FILE = "contact_sheet.jpg"
LISTS = (SKIPPED_FILE, DUPLICATES_FILE, REPORT_FILE, DATASET_FILE, SHEET_FILE, CARD_FILE)
"""Files of a finished run beside the shards, in the order in which they appear."""
_OWN = re.compile(
    r"plan\.json|done\.json|\.dragonfly\.lock|\d{5}\.json|\..+\.\d+\.partial|.+-\d{5}\.tar(\.idx|\.meta\.jsonl)?|"
    + "|".join(map(re.escape, LISTS))
)
"""Names that files of a run have in `.pack/`."""
_DEALT = re.compile(re.escape(STATE_FOLDER) + r"-(\d+)-of-(\d+)")


def state_folder(out: Path, deal: tuple[int, int] | None = None) -> Path:
    """Where a run keeps what is not finished.

    Args:
        out: folder of the shards.
        deal: which of how many machines packs, counted from 1; None is the only one.
    """
    return out / (STATE_FOLDER if deal is None else f"{STATE_FOLDER}-{deal[0]}-of-{deal[1]}")


def dealt_folders(out: Path) -> dict[tuple[int, int], Path]:
    """The folders of state of the machines that share the work, by what was dealt to them."""
    there = sorted(out.iterdir()) if out.is_dir() else []
    found = {tuple(map(int, match.groups())): path for path in there if (match := _DEALT.fullmatch(path.name))}
    return {(number, of): path for (number, of), path in sorted(found.items())}


def begin(state: Path, plan: dict[str, Any], *, beside: bool = False) -> None:
    """Make `.pack/` with this run's plan, or go on in the one that a run with the same plan left behind.

    Args:
        state: the folder.
        plan: what must be the same for a run to go on.
        beside: whether the shards of other machines may lie beside it.

    Raises:
        ValueError: a run with another plan was stopped here, or something lies here that this run would write over.
    """
    out = state.parent
    if state.is_symlink() or (state.exists() and not (state.is_dir() and all(map(_is_own, state.iterdir())))):
        raise ValueError(
            f"--out {out}: {state.name} in it is not from this command. Take it away or choose another folder."
        )
    path = state / PLAN_FILE
    before = read_plan(path)
    changed = changes(before, plan)
    if before and changed and any(mark["entry"] for mark in marks_of([state])):
        raise ValueError(
            f"--out {out} holds a run that was stopped, and it was not this one: {'; '.join(changed)}. "
            "Go on with the same arguments and files, or delete the folder."
        )
    if changed:  # nothing lies here yet; or nothing was done yet, and a row was mended or an option changed
        _check_names(out, beside=beside)
        clear(state)
        state.mkdir(exist_ok=True)
        atomic.write(path, json.dumps(plan))
    for left_behind in state.glob(".*.partial"):  # of a run that was killed
        left_behind.unlink()


def clear(state: Path) -> None:
    """Take `.pack/` away, but for what no run of this command wrote into it; the plan goes last.

    A lock stays: whoever holds it takes it away.
    """
    if state.is_dir() and not state.is_symlink():
        for path in sorted(filter(_is_own, state.iterdir()), key=lambda path: path.name == PLAN_FILE):
            if path.name != LOCK_FILE:
                path.unlink()
        with suppress(OSError):
            state.rmdir()


def mark_path(state: Path, number: int) -> Path:
    """The file that says that shard `number` is done, and what is in it."""
    return state / f"{number:05d}.json"


def marks_of(states: Iterable[Path]) -> list[dict[str, Any]]:
    """What the marks in folders of state say, in the order of the shards."""
    marks = [path for state in states for path in state.glob("[0-9]*.json")]
    return [json.loads(path.read_text()) for path in sorted(marks, key=lambda path: int(path.stem))]


def publish(state: Path, name: str, content: str | bytes) -> None:
    """Write a file of a finished run, which appears beside the shards as a whole."""
    made = state / name
    atomic.write(made, content)
    made.rename(state.parent / name)


def _is_own(path: Path) -> bool:
    return bool(_OWN.fullmatch(path.name)) and path.is_file() and not path.is_symlink()


def read_plan(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with suppress(ValueError):
        plan = json.loads(path.read_text())
        if isinstance(plan, dict) and "inputs" in plan:
            return plan
    raise ValueError(f"{path} is not the plan of a run. Take its folder away or choose another --out.")


def changes(before: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """What is another thing in the two plans: what only one of them has is another thing too."""
    was, is_now = _flat(before), _flat(plan)
    return [
        f"{key} was {was.get(key, 'not given')}, is {is_now.get(key, 'not given')}"
        for key in was | is_now
        if was.get(key) != is_now.get(key)
    ]


def _flat(plan: dict[str, Any]) -> dict[str, Any]:
    options = plan.get("options")
    return plan | options | {"options": None} if isinstance(options, dict) else plan


def _check_names(out: Path, *, beside: bool) -> None:
    """Raise where something lies in the folder that a new run would write over."""
    if not beside and any(out.glob("*.tar")):
        raise ValueError(f"--out {out} already holds shards that are not from this run. Choose another folder.")
    for name in LISTS:
        if os.path.lexists(out / name):
            raise ValueError(f"--out {out} already holds a {name}, which would be lost. Choose another folder.")
