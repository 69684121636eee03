"""The command and the commit behind a figure: those of the jobs that it is drawn from."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.study.cells import Cell

NOT_REPEATED = ("name=", "resume=")
"""What a sweep adds to the command of a job."""
UNKNOWN = "an unknown commit"


def origins(cells: Sequence[Cell], benchmark: str) -> list[str]:
    """One line for each commit and kind of command: `python train.py -m experiment/cell=a,b seed=0,1 at commit 012abc`.

    Cells with the same seeds share a line, where a list after an equals sign stands for a job for each of its values,
    as in Hydra's sweeps.

    Args:
        cells: whose finished jobs are meant.
        benchmark: whose results say how they came to be.
    """
    kinds: dict[tuple[str, tuple[str, ...], str], list[list[str]]] = {}
    unknown = 0
    for cell in cells:
        commands: dict[tuple[str, tuple[str, ...]], list[list[str]]] = {}
        for seed, result in cell.results.items():
            made = _made(cell.folders.get(seed), result.get("benchmarks", {}).get(benchmark, {}))
            if not made.get("command"):
                unknown += 1
                continue
            words = [word for word in shlex.split(made["command"]) if not word.startswith(NOT_REPEATED)]
            keys = tuple(word.partition("=")[0] for word in words)
            commands.setdefault((made.get("commit") or UNKNOWN, keys), []).append(words)
        for (commit, keys), of_seeds in commands.items():
            words = _together(of_seeds)
            seeds = next((word for word in words if word.startswith("seed=")), "")
            kinds.setdefault((commit, keys, seeds), []).append(words)
    lines = []
    for (commit, _, _), of_cells in kinds.items():
        script, *words = _together(of_cells)
        start = ["python"] * script.endswith(".py") + [script] + ["-m"] * any("," in w.partition("=")[2] for w in words)
        lines.append(f"{' '.join([*start, *map(_typed, words)])} at commit {commit}")
    if unknown:
        lines.append(f"{unknown} {'jobs' if unknown > 1 else 'job'} whose results do not say what made them")
    return lines


def _typed(word: str) -> str:
    """A word as a shell takes it; a list of plain values needs no quotes."""
    return word if re.fullmatch(r"[\w.+/=,@:-]+", word) else shlex.quote(word)


def _together(commands: Sequence[Sequence[str]]) -> list[str]:
    """Commands with the same keys as one, with a list for each key whose values differ."""
    words = []
    for same in zip(*commands, strict=True):
        values = list(dict.fromkeys(value for word in same for value in word.partition("=")[2].split(",")))
        key, equals, _ = same[0].partition("=")
        words.append(same[0] if len(set(same)) == 1 else f"{key}{equals}{','.join(values)}")
    return words


def _made(folder: Path | None, entry: dict[str, Any]) -> dict[str, Any]:
    """What the report beside the answers says of its origin; nothing where it is gone."""
    if folder is None or "folder" not in entry:
        return {}
    try:
        return json.loads((folder / entry["folder"] / "results.json").read_text(encoding="utf-8")).get("made") or {}
    except (OSError, ValueError):
        return {}
