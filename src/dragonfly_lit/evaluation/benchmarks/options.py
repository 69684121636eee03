"""A benchmark's options in the name of the folder of its results: those that are not the usual ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any


def changed(benchmark: Any) -> dict[str, Any]:
    """The options of a benchmark with another value than its class gives them, but for how many questions are shown."""
    found = {}
    for each in fields(benchmark):
        value = getattr(benchmark, each.name)
        value = tuple(value) if isinstance(value, list) else value  # as YAML has it
        usual = each.default_factory() if callable(each.default_factory) else each.default
        if value != usual and each.name != "show" and not callable(value):
            found[each.name] = value
    return found


def path_name(path: str | Path) -> str:
    """A path in the name of a folder: its last part, and a digest of where it lies, which tells two apart."""
    path = Path(path)
    where = path.parent.as_posix()
    return path.name if where == "." else f"{path.name}_{hashlib.sha256(where.encode()).hexdigest()[:6]}"


def named(option: str, value: Any) -> str:
    """An option of a benchmark in the name of a folder: `zh`, `ocr`, `frames_3`, `window_100_400`, `image=scan`."""
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, Mapping):
        return "_".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, Sequence):
        return "_".join([option, *map(str, value)])
    return option if value is True else f"{option}_{value}"
