"""Images that stay inside a parquet file until they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq

from dragonfly_lit.io.inside import inside


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """Row `row` of an image column: `struct<bytes, path>` as Hugging Face has it, plain binary, or a list of those."""

    file: Path
    column: str
    row: int
    key: str
    """Identity of the image: equal where two rows hold the same picture, if the data set says so."""
    item: int | None = None
    """Place in the cell, if that holds a list."""

    def read_bytes(self) -> bytes:
        """The encoded image; ValueError when the cell is empty and no file lies beside the table or below."""
        starts = _row_group_starts(self.file)
        group = next(i for i in reversed(range(len(starts))) if starts[i] <= self.row)
        value = _column_of_group(self.file, self.column, group)[self.row - starts[group]].as_py()
        value = value if self.item is None else value[self.item]
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if content:
            return content
        if path and (beside := inside(self.file.parent, path)).is_file():
            return beside.read_bytes()
        raise ValueError(f"{self.file.name}: row {self.row} of column {self.column!r} holds no image.")


@lru_cache(maxsize=64)
def _row_group_starts(file: Path) -> tuple[int, ...]:
    metadata = pq.ParquetFile(file).metadata
    starts = [0]
    for group in range(metadata.num_row_groups - 1):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return tuple(starts)


@lru_cache(maxsize=4)
def _column_of_group(file: Path, column: str, group: int):
    return pq.ParquetFile(file).read_row_group(group, columns=[column]).column(column)
