"""What reads a source: the shards or tables that its path names, near or far, or a reader of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.exclusion import Kept, Keyed, read_keys
from dragonfly_lit.data.far import FarShards, foreign_files
from dragonfly_lit.data.fetching import FarFile
from dragonfly_lit.data.making import how_to_make
from dragonfly_lit.data.remote import is_remote
from dragonfly_lit.data.shards import Report
from dragonfly_lit.data.source import Reader
from dragonfly_lit.data.source_spec import SourceSpec
from dragonfly_lit.data.table_files import SUFFIXES, table_files
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES


def open_source(
    spec: SourceSpec,
    key: str,
    report: Report | None = None,
    cache_dir: str | None = None,
    cache_bytes: int = 50 * 10**9,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Reader:
    """What reads a source.

    Args:
        spec: of the source.
        key: its config key, for messages.
        report: where damaged shards of a source with `on_error: skip` are reported.
        cache_dir: of remote shards.
        cache_bytes: how much they may take.
        max_member_bytes: of a member of a shard.

    Raises:
        ValueError: the shards are missing or damaged, or the reader lacks something; the message names the way out.
    """
    if spec.path is None:
        return _checked_reader(spec.reader, f"{key}.reader")
    try:
        reader = _opened(
            spec.path,
            report=report if spec.on_error == "skip" else None,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            max_member_bytes=max_member_bytes,
        )
    except ValueError as error:
        raise ValueError(f"{key}.path={spec.path}: {error}") from error
    if spec.exclude is None:
        return reader
    try:
        return Kept(reader, read_keys(Path(spec.exclude)))
    except ValueError as error:
        raise ValueError(f"{key}.exclude={spec.exclude}: {error}") from error


def _opened(path: str, *, report: Report | None, **limits: Any) -> Keyed:
    """The shards or the tables that a path names; `limits` are those that both take."""
    remote = is_remote(path)
    files = foreign_files(path) if remote else table_files(path)
    if files and files[0].suffix in SUFFIXES:
        from dragonfly_lit.data.far_tables import FarTables  # for which pyarrow is needed
        from dragonfly_lit.data.tables import Tables

        tables = (FarTables if remote else Tables)(path, files, **limits)
        if not len(tables):
            raise ValueError("its tables have no row.")
        return tables
    if not remote and not Path(path).is_dir():
        raise ValueError(f"no such folder. Make it with: {how_to_make(path)}")
    far = [file for file in files if isinstance(file, FarFile)]
    shards = FarShards(path, far, report=report, **limits) if far else open_dataset(path, report=report, **limits)
    if not len(shards):
        raise ValueError(f"it has shards but no sample. Write some: {how_to_make(path)}")
    return shards


def _checked_reader(reader: Any, key: str) -> Reader:
    lacking = [name for name in ("digest", "__len__", "record", "describe") if not hasattr(reader, name)]
    if lacking:
        raise ValueError(
            f"{key} is a {type(reader).__name__} without {', '.join(lacking)}. Give a _target_ whose class inherits "
            "from dragonfly_lit.data.source.Reader."
        )
    if not len(reader):
        raise ValueError(f"{key}: {type(reader).__name__} has no record.")
    return reader
