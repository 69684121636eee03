"""Parquet and Arrow files, as hubs serve them, as a source: a row is a sample, a row group what a shard is elsewhere.

A row of Parquet cannot be read alone, so its row group is written once, as Arrow, into the cache of remote shards, and
rows are read from there by their place. Files of Arrow are read where they lie.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from dragonfly_lit.data.failures import RemoteError
from dragonfly_lit.data.fetching import FarFile
from dragonfly_lit.data.remote import TRIES, Cache
from dragonfly_lit.data.table_files import PACK, parts_of
from dragonfly_lit.data.table_rows import COLUMNS, TEXTS, record_of
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES
from dragonfly_lit.spec.rows import Place, Row
from dragonfly_lit.spec.samples import Record

if TYPE_CHECKING:
    import pyarrow as pa

File = Path | FarFile
ROWS_A_BATCH = 64
_ENDS = 2**16


@dataclass(frozen=True, kw_only=True)
class Group:
    """A row group of Parquet, or all of a file of Arrow.

    Attributes:
        file: that it lies in.
        number: of the row group; None for a file of Arrow.
        first: row of the file with which it begins.
        state: of the file, alike wherever it lies.
        copy: key of its copy in the cache; another one whenever the file was written to.
    """

    file: File
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
        files: Sequence[File],
        *,
        cache_dir: str | Path | None = None,
        cache_bytes: int = 50 * 10**9,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ):
        if len(parts := parts_of(files)) > 1:
            raise ValueError(f"it has files of {' and of '.join(parts)}. Set split to one of them.")
        self.path, self._max_member_bytes = path, max_member_bytes
        self._cache = Cache(Path(cache_dir or Path(gettempdir()) / "dragonfly_lit_shards"), cache_bytes)
        self._groups: list[Group] = []
        sizes: list[int] = []
        for group, size in self._look_at(files):
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

    def _find(self, index: int) -> tuple[Group, int]:
        number = bisect_right(self._ends, index)
        return self._groups[number], index - (self._ends[number - 1] if number else 0)

    def _cells(self, group: Group, place: int) -> dict[str, Any]:
        """The cells of row `place` of a group."""
        if group.number is None:
            return self._row_of_arrow(group, place)
        for _ in range(TRIES):
            copy = self._cache.made(
                f"{group.file} (row group {group.number})",
                group.copy,
                lambda: self._as_arrow(group),
            )
            try:
                return row_at(copy, place)
            except FileNotFoundError:
                continue
        raise RemoteError(f"row groups of {self.path} do not stay in {self._cache.folder}. Raise data.cache_gb.")

    def _look_at(self, files: Sequence[File]) -> Iterator[tuple[Group, int]]:
        """The groups of all files, and how many rows each has."""
        for file in files:
            assert isinstance(file, Path)
            with _reading(file):
                yield from _groups_of(file)

    def _as_arrow(self, group: Group) -> pa.Buffer:
        """A row group of Parquet as a stream of Arrow."""
        assert isinstance(group.file, Path)
        with _reading(group.file):
            return as_arrow(group.file, group)

    def _row_of_arrow(self, group: Group, place: int) -> dict[str, Any]:
        """The cells of a row of a file of Arrow."""
        assert isinstance(group.file, Path)
        with _reading(group.file):
            return row_at(group.file, place, checked=True)


def _key(group: Group, place: int) -> str:
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


def _groups_of(file: Path) -> Iterator[tuple[Group, int]]:
    """The groups of a file, and how many rows each has."""
    with file.open("rb") as opened:
        size = file.stat().st_size
        if file.suffix == ".arrow":
            with opened_arrow(file) as batches:
                check_columns(file, batches.schema.names)
                rows = sum(batch.num_rows for batch in batches)
            if rows:
                yield Group(file=file, number=None, first=0, state=ends_of(opened, size)), rows
            return
        changed = file.stat().st_mtime_ns
        names, rows, state = look_at_parquet(opened, size)
    check_columns(file, names)
    yield from groups(file, f"{file.resolve()}\n{changed}", rows, state)


def look_at_parquet(file: Any, size: int) -> tuple[list[str], list[int], str]:
    """The columns of an open file of Parquet, the rows of its groups, and what changes when the file does."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    rows = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
    return list(table.schema_arrow.names), rows, ends_of(file, size, table.metadata.serialized_size)


def groups(file: File, where: str, rows: Sequence[int], state: str) -> Iterator[tuple[Group, int]]:
    """The groups of a file of Parquet that have rows, and how many.

    Args:
        file: of Parquet.
        where: it lies, for the key of their copies.
        rows: of each of its groups.
        state: of the file.
    """
    for number, (first, size) in enumerate(zip(accumulate(rows, initial=0), rows, strict=False)):
        if size:
            copy = f"{where}\n{state}\n{number}\n{COLUMNS}"
            yield Group(file=file, number=number, first=first, state=state, copy=copy), size


def ends_of(file: Any, size: int, at_least: int = 0) -> str:
    """A checksum of a file's size and its ends; the last bytes of Parquet say where every page lies and what it has.

    Args:
        file: open.
        size: of it.
        at_least: bytes at its end.
    """
    length = max(_ENDS, at_least + 8)
    digest = hashlib.sha256(str(size).encode())
    file.seek(0)
    digest.update(file.read(_ENDS))
    file.seek(max(0, size - length))
    digest.update(file.read(min(size, length)))
    return digest.hexdigest()


def check_columns(file: File, names: list[str]) -> None:
    """ValueError for a table without a column of text."""
    if not set(names).intersection(TEXTS):
        raise ValueError(
            f"{file} has none of the columns {', '.join(TEXTS)}; it has {', '.join(names):.200}. Pack it: {PACK}"
        )


def as_arrow(source: Any, group: Group) -> pa.Buffer:
    """A row group of Parquet as a stream of Arrow, in batches of which one holds few rows.

    Args:
        source: the file, or it open.
        group: of it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert group.number is not None
    with pq.ParquetFile(source, pre_buffer=not isinstance(source, Path)) as table:
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
def opened_arrow(file: Path) -> Iterator[_Batches]:
    """The record batches of a file of Arrow."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as mapped:
        yield _Batches(mapped)


def row_at(file: Path, place: int, *, checked: bool = False) -> dict[str, Any]:
    """The cells of a row of a file of Arrow; nothing but the row is copied.

    Args:
        file: of Arrow.
        place: of the row.
        checked: whether its offsets are looked at first: those of a damaged file point anywhere.
    """
    with opened_arrow(file) as batches:
        for batch in batches:
            if place < batch.num_rows:
                names = [name for name in batch.schema.names if name in COLUMNS]
                row = batch.select(names).slice(place, 1)
                if checked:
                    row.validate(full=True)
                return row.to_pylist()[0]
            place -= batch.num_rows
    raise ValueError(f"{file} has fewer rows than when it was opened.")
