"""Which files a path of Parquet or Arrow means, and which of them are a part, by their names."""

from __future__ import annotations

import re
from pathlib import Path

from dragonfly_lit.spec.shard import DATASET_FILE, SPLITS, SPLITS_FILE
from dragonfly_lit.spec.table import SPLIT_WORDS

SUFFIXES = (".parquet", ".arrow")
PACK = "python -m data_prep pack --from parquet"
"""The way out for rows that are not read as they lie."""
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


def without_shards(folder: Path, said: str) -> ValueError:
    """The error for a folder without shards: `said`, or that it holds tables where it does."""
    tables = table_files(str(folder))
    if not tables:
        return ValueError(said)
    return ValueError(
        f"{folder} holds tables ({tables[0].name}), which training, `mix-plan` and `inspect` read as they lie; this "
        f"reads shards. Write some first: {PACK} FILE --out FOLDER --source NAME --licence LICENCE"
    )


def parts_of(files: list[Path]) -> dict[str, str]:
    """The first word of the names of files that names a part, by part: `train-00000-of-00005.parquet` is to train on.

    Args:
        files: of one folder.
    """
    found = {}
    for file in files:
        word = _FIRST_WORD.match(file.name)
        if word and word[0].lower() in SPLIT_WORDS:
            found.setdefault(SPLIT_WORDS[word[0].lower()], word[0])
    return {part: found[part] for part in SPLITS if part in found}


def tables_of_part(path: str, split: str) -> str | None:
    """The path of those tables of a folder whose names say that they are a part; None where there are none.

    Args:
        path: of the folder.
        split: one of `SPLITS`.
    """
    parts = parts_of(table_files(path))
    if split not in parts:
        return None
    return f"{path.rstrip('/')}/{parts[split]}[!A-Za-z]*"
