"""A folder of shards that `pack --split-by` has divided: a part to train on, and others to validate and to test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dragonfly_lit.data.failures import is_absent
from dragonfly_lit.data.listing import SHARD, far_tables, names_files
from dragonfly_lit.data.remote import is_remote, read_bytes
from dragonfly_lit.data.table_files import SUFFIXES, parts_of, table_files, tables_of_part
from dragonfly_lit.spec.shard import SPLITS, SPLITS_FILE

MAX_BYTES = 2**20


def part_of_path(path: str, split: str) -> str | None:
    """Where a part of a folder or URL of shards lies; None where it has none.

    A folder of tables is divided by the names of its files; a table, or several that a pattern names, are the part
    that their names say. What is not divided is all to train on, and so are files that a URL names.

    Args:
        path: of the folder, or of tables.
        split: `train`, `validation` or `test`.

    Raises:
        ValueError: a remote folder cannot be asked, or the names of tables leave open which are the part.
    """
    path = path.rstrip("/") or "/"
    if is_remote(path):
        if names_files(path, (SHARD, *SUFFIXES)):
            return path if split == "train" else None
        if parts_of(files := far_tables(path)):
            return tables_of_part(path, split, files)
    elif parts_of(table_files(path)):
        return tables_of_part(path, split)
    if not _is_divided(path):
        return path if split == "train" else None
    part = f"{path}/{split}"
    return part if is_remote(path) or Path(part).is_dir() else None


def _is_divided(path: str) -> bool:
    if not is_remote(path):
        return (Path(path) / SPLITS_FILE).is_file()
    try:
        return bool(read_bytes(f"{path}/{SPLITS_FILE}", MAX_BYTES))
    except ValueError as error:
        if is_absent(error):
            return False
        raise


def without_missing_parts(mix: Mapping[str, Any]) -> dict[str, Any]:
    """A mix without the sources whose part their folders do not have."""
    kept = {}
    for name, node in (mix.get("sources") or {}).items():
        if isinstance(node, Mapping) and "sources" in node:
            node = without_missing_parts(node)
            if not node["sources"]:
                continue
        elif _is_missing(node):
            continue
        kept[name] = node
    return {**mix, "sources": kept}


def missing_parts(mix: Mapping[str, Any]) -> list[str]:
    """The paths of the sources that `without_missing_parts` leaves out of a mix."""
    found = []
    for node in (mix.get("sources") or {}).values():
        if isinstance(node, Mapping) and "sources" in node:
            found += missing_parts(node)
        elif _is_missing(node):
            found.append(str(node["path"]))
    return found


def _is_missing(node: Any) -> bool:
    if not isinstance(node, Mapping) or node.get("split") not in SPLITS or not node.get("path"):
        return False  # what is not well said is refused when the source is opened
    try:
        return part_of_path(str(node["path"]), node["split"]) is None
    except ValueError:  # likewise, with its key
        return False
