"""Which files a path of Parquet or Arrow means, and which of them are a part, by their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from dragonfly_lit.data.making import how_to_make
from dragonfly_lit.spec.shard import DATASET_FILE, SPLITS, SPLITS_FILE
from dragonfly_lit.spec.table import SPLIT_WORDS

SUFFIXES = (".parquet", ".arrow")
PACK = "python -m data_prep pack --from parquet"
"""The way out for rows that are not read as they lie."""
log = logging.getLogger(__name__)


@runtime_checkable
class Named(Protocol):
    """A file, here or far."""

    @property
    def name(self) -> str:
        """Of it, in its folder."""
        ...


_FIRST_WORD = re.compile("[A-Za-z]+")


def table_files(path: str) -> list[Path]:
    """The tables of a folder, the table itself, or those whose names match the last part of the path (`train-*`).

    A folder with shards is a folder of shards; for it, and for what is neither, there are none.

    Args:
        path: local.
    """
    here = Path(path)
    if here.is_dir():
        found = sorted(here.iterdir())
        if any(file.suffix == ".tar" or file.name in (DATASET_FILE, SPLITS_FILE) for file in found):
            return []
    elif here.is_file():
        found = [here]
    else:
        found = sorted(here.parent.glob(here.name)) if any(mark in here.name for mark in "*?[") else []
    return [file for file in found if file.suffix in SUFFIXES and not file.name.startswith((".", "_"))]


def without_shards(folder: Path) -> ValueError:
    """The error for a folder without shards, with the way to some."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        return ValueError(f"folder {folder} {what}. Make it with: {how_to_make(str(folder))}")
    tables = table_files(str(folder))
    if not tables:
        return ValueError(f"folder {folder} has no shard (*.tar). Write some first: {how_to_make(str(folder))}")
    return ValueError(
        f"{folder} holds tables ({tables[0].name}), which training, `mix-plan` and `inspect` read as they lie; this "
        f"reads shards. Write some first: {PACK} FILE --out FOLDER --source NAME --licence LICENCE"
    )


def parts_of(files: Sequence[Named]) -> dict[str, list[str]]:
    """By part the words for it with which names of files begin: `train-00000-of-00005.parquet` is to train on.

    Args:
        files: of one folder.
    """
    found: dict[str, list[str]] = {}
    for file in files:
        if part := _part_of(file):
            words = found.setdefault(part, [])
            if (word := _word_of(file)) not in words:
                words.append(word)
    return {part: found[part] for part in SPLITS if part in found}


def _word_of(file: Named) -> str:
    word = _FIRST_WORD.match(file.name)
    return word[0] if word else ""


def _part_of(file: Named) -> str | None:
    return SPLIT_WORDS.get(_word_of(file).lower())


def tables_of_part(path: str, split: str, far: Sequence[Named] | None = None) -> str | None:
    """The path of those tables whose names say that they are a part; None where there are none.

    Args:
        path: of their folder, of one of them, or a pattern.
        split: one of `SPLITS`.
        far: the tables of a folder that is remote.

    Raises:
        ValueError: their names have several words for this part, or a pattern names tables of other parts too.
    """
    files: Sequence[Named] = table_files(path) if far is None else far
    parts = parts_of(files)
    if split not in parts:
        return None
    if len(parts[split]) > 1:
        told = " and of ".join(parts[split])
        raise ValueError(f"{path} has files of {told}, and both are its part {split}. Rename those of one.")
    if far is not None or Path(path).is_dir():
        _tell_of_others(path, tuple(file.name for file in files if _part_of(file) is None))
        return f"{path.rstrip('/')}/{parts[split][0]}[!A-Za-z]*"
    if len(parts) > 1:
        raise ValueError(
            f"{path} names files of {' and of '.join(parts)}. Name their folder; split takes those of one."
        )
    return path


@cache
def _tell_of_others(path: str, names: tuple[str, ...]) -> None:
    """Say once which tables of a divided folder are of no part."""
    if names:
        log.warning(
            "%s: %s of its tables are of no part by their names and are not read: %s", path, len(names), names[0]
        )
