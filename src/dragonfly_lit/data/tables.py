"""Parquet and Arrow files, as hubs serve them, as a source: a row is a sample, a row group what a shard is elsewhere.

A row of Parquet cannot be read alone, so its row group is written once, as Arrow, into the cache of remote shards, and
rows are read from there by their place. Files of Arrow are read where they lie.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from dragonfly_lit.data.remote import Cache
from dragonfly_lit.data.table_files import PACK, parts_of
from dragonfly_lit.data.table_rows import COLUMNS, TEXTS, record_of
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES
from dragonfly_lit.spec.rows import Place, Row
from dragonfly_lit.spec.samples import Record

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_BATCH = 64
TRIES = 5
"""A copy may go, to make place for another, before it is opened."""
_ENDS = 2**16


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A row group of Parquet, or all of a file of Arrow.

    Attributes:
        file: that it lies in.
        number: of the row group; None for a file of Arrow.
        first: row of the file with which it begins.
        state: of the file, alike wherever it lies.
        copy: key of its copy in the cache; another one whenever the file was written to.
    """

    file: Path
    number: int | None
    first: int
    state: str
    copy: str = ""


class Tables:
    """The rows of Parquet or Arrow files, numbered in the order of the files.

    Args:
        path: that they were named by, for messages.
        files: in their order.
        cache_dir: where row groups of Parquet are kept.
        cache_bytes: how much they may take, with copies of remote shards.
        max_member_bytes: of an image.

    Raises:
        ValueError: a file is damaged, has no column of text, or the files are to train and to test.
    """

    def __init__(
        self,
        path: str,
        files: list[Path],
        *,
        cache_dir: str | Path | None = None,
        cache_bytes: int = 50 * 10**9,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ):
        if len(parts := parts_of(files)) > 1:
            raise ValueError(f"it has files of {' and of '.join(parts)}. Set split to one of them.")
        self.path, self._max_member_bytes = path, max_member_bytes
        self._cache = Cache(Path(cache_dir or Path(gettempdir()) / "dragonfly_lit_shards"), cache_bytes)
        self._groups: list[_Group] = []
        sizes: list[int] = []
        for file in files:
            with _reading(file):
                for group, size in _groups_of(file):
                    self._groups.append(group)
                    sizes.append(size)
        self._ends = list(accumulate(sizes))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def digest(self) -> str:
        """Of the files' names, sizes, row groups and ends; of Parquet the ends say where each page lies.

        No file is read whole for it, so a change that keeps every length may be overlooked.
        """
        listed = "\n".join(f"{g.file.name} {g.number} {g.first} {g.state}" for g in self._groups)
        return hashlib.sha256(f"{listed} {len(self)}".encode()).hexdigest()[:16]

    def keys(self) -> Iterator[str]:
        """The key of every row, in their order; nothing is read."""
        for number, group in enumerate(self._groups):
            size = self._ends[number] - (self._ends[number - 1] if number else 0)
            yield from (_key(group, place) for place in range(size))

    def record(self, index: int, epoch: int = 0) -> Record:
        """The record of row `index`; it is the same in every epoch.

        Args:
            index: counted from the first file's first row.
            epoch: not looked at.

        Raises:
            ValueError: the row is in none of the forms that are read, or its file is damaged.
        """
        group, place = self._find(index)
        row = group.first + place
        cells = Row(values=self._cells(group, place), place=Place(group.file.name, row + 1))
        return record_of(_key(group, place), cells, self._check)

    def describe(self, index: int) -> tuple[str, str]:
        """The file of row `index`, and its number there, from 1 on."""
        group, place = self._find(index)
        return group.file.name, f"row {group.first + place + 1}"

    def _check(self, image: bytes) -> None:
        if len(image) > self._max_member_bytes:
            raise ValueError(f"an image has {len(image)} bytes; at most {self._max_member_bytes}.")

    def _find(self, index: int) -> tuple[_Group, int]:
        number = bisect_right(self._ends, index)
        return self._groups[number], index - (self._ends[number - 1] if number else 0)

    def _cells(self, group: _Group, place: int) -> dict[str, Any]:
        """The cells of row `place` of a group."""
        if group.number is None:
            with _reading(group.file):
                return _row(group.file, place, checked=True)
        for _ in range(TRIES):
            copy = self._cache.made(
                f"{group.file} (row group {group.number})",
                group.copy,
                lambda: _as_arrow(group),
            )
            try:
                return _row(copy, place)
            except FileNotFoundError:
                continue
        raise ValueError(f"its row groups do not stay in {self._cache.folder}. Raise data.cache_gb.")


def _key(group: _Group, place: int) -> str:
    return f"{group.file.name}/{group.first + place}"


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """What pyarrow raises, as one line with the file's name."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise ValueError(f"{file} is gone.") from error
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split()):.300}") from error


def _groups_of(file: Path) -> Iterator[tuple[_Group, int]]:
    """The groups of a file, and how many rows each has."""
    import pyarrow.parquet as pq

    if file.suffix == ".arrow":
        with _opened(file) as batches:
            _check_columns(file, batches.schema.names)
            size = sum(batch.num_rows for batch in batches)
        if size:
            yield _Group(file=file, number=None, first=0, state=_ends_of(file)), size
        return
    with pq.ParquetFile(file) as table:
        _check_columns(file, table.schema_arrow.names)
        state, first, changed = _ends_of(file, table.metadata.serialized_size), 0, file.stat().st_mtime_ns
        for number in range(table.num_row_groups):
            size = table.metadata.row_group(number).num_rows
            if size:
                copy = f"{file.resolve()}\n{changed}\n{state}\n{number}\n{COLUMNS}"
                yield _Group(file=file, number=number, first=first, state=state, copy=copy), size
            first += size


def _ends_of(file: Path, at_least: int = 0) -> str:
    """A checksum of a file's size and its ends; the last bytes of Parquet say where every page lies and what it has."""
    size, length = file.stat().st_size, max(_ENDS, at_least + 8)
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        digest.update(opened.read(_ENDS))
        opened.seek(max(0, size - length))
        digest.update(opened.read())
    return digest.hexdigest()


def _check_columns(file: Path, names: list[str]) -> None:
    if not set(names).intersection(TEXTS):
        raise ValueError(
            f"{file} has none of the columns {', '.join(TEXTS)}; it has {', '.join(names):.200}. Pack it: {PACK}"
        )


def _as_arrow(group: _Group) -> pa.Buffer:
    """A row group of Parquet as a stream of Arrow, in batches of which one holds few rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert group.number is not None
    with _reading(group.file), pq.ParquetFile(group.file) as table:
        names = [name for name in table.schema_arrow.names if name in COLUMNS]
        rows = table.read_row_group(group.number, columns=names, use_threads=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:  # opens faster than a file with a footer
        writer.write_table(rows, max_chunksize=ROWS_A_BATCH)
    return sink.getvalue()


class _Batches:
    """The record batches of a file of Arrow, of either of its formats."""

    def __init__(self, file: pa.MemoryMappedFile):
        import pyarrow as pa

        if bytes(file.read(6)) == b"ARROW1":
            self._file, self._stream = pa.ipc.open_file(file), None
            self.schema = self._file.schema
        else:
            file.seek(0)
            self._file, self._stream = None, pa.ipc.open_stream(file)
            self.schema = self._stream.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        if self._stream is not None:
            yield from self._stream
        elif self._file is not None:
            yield from map(self._file.get_batch, range(self._file.num_record_batches))


@contextmanager
def _opened(file: Path) -> Iterator[_Batches]:
    import pyarrow as pa

    with pa.memory_map(str(file)) as mapped:
        yield _Batches(mapped)


def _row(file: Path, place: int, *, checked: bool = False) -> dict[str, Any]:
    """The cells of a row of a file of Arrow; nothing but the row is copied.

    Args:
        file: of Arrow.
        place: of the row.
        checked: whether its offsets are looked at first: those of a damaged file point anywhere.
    """
    with _opened(file) as batches:
        for batch in batches:
            if place < batch.num_rows:
                names = [name for name in batch.schema.names if name in COLUMNS]
                row = batch.select(names).slice(place, 1)
                if checked:
                    row.validate(full=True)
                return row.to_pylist()[0]
            place -= batch.num_rows
    raise ValueError(f"{file} has fewer rows than when it was opened.")
