"""Images that stay inside a table, parquet or text, until they are needed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq

from dragonfly_lit.io.inside import inside
from dragonfly_lit.processing.dicom import Frames, chosen_frames, is_dicom
from dragonfly_lit.processing.images import Window, decode, read_header


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """Row `row` of an image column: `struct<bytes, path>` of Hugging Face, binary, base64, or a list of those."""

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
            return decode_base64(content, self.key) if isinstance(content, str) else content
        if path and (beside := inside(self.file.parent, path)).is_file():
            return beside.read_bytes()
        raise ValueError(f"{self.file.name}: row {self.row + 1} of column {self.column!r} holds no image.")


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """Base64 at a place of a text file: tables of several gigabytes are never read whole."""

    file: Path
    start: int
    length: int
    key: str
    """Identity of the image, as of a stored one."""

    def read_bytes(self) -> bytes:
        """The encoded image; ValueError when the text there is not base64."""
        with open(self.file, "rb") as file:
            file.seek(self.start)
            return decode_base64(file.read(self.length).replace(b"\0", b""), self.key)  # of UTF-16 the letters alone


@dataclass(frozen=True, kw_only=True)
class RenderedImage:
    """A frame of an image, or an image whose values become black and white by a given window."""

    source: bytes | Path | StoredImage
    frame: int | None = None
    window: Window | None = None

    @property
    def key(self) -> str:
        """Identity of the image, as of a stored one."""
        return f"{key_of(self.source)}{self._how}"

    @property
    def _how(self) -> str:
        window = "" if self.window is None else f" from {self.window[0]:g} to {self.window[1]:g}"
        return ("" if self.frame is None else f"#{self.frame}") + window

    def __str__(self) -> str:
        return f"{place_of(self.source)}{self._how}"

    def read_bytes(self) -> bytes:
        """The picture as PNG; ValueError when there is no image, or it has no such frame."""
        out = BytesIO()
        data = self.source.read_bytes() if isinstance(self.source, StoredImage) else self.source
        decode(data, frame=self.frame, window=self.window).save(out, "PNG", compress_level=1)
        return out.getvalue()


def renderings(
    data: bytes | Path, frames: Frames | None, window: Window | None
) -> list[tuple[int | None, Window | None]]:
    """The frame and the window of each picture that a file becomes; None and None is the file as it is.

    Args:
        data: the file, or its bytes.
        frames: of a DICOM file with several frames, those that become pictures; None refuses such a file.
        window: black and white of an image of more than 8 bits; others are left as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or has several frames and none is chosen.
    """
    chosen = chosen_frames(data, frames) if is_dicom(data) else [None]
    if window is not None and not read_header(data if isinstance(data, bytes) else data.read_bytes()).deep:
        window = None
    return [(frame, window) for frame in chosen]


AnyImage = bytes | Path | StoredImage | EncodedImage | RenderedImage
"""An image where it lies: its bytes, its file, or a place that knows how to read it."""


Place = TypeVar("Place", bound=bytes | Path | StoredImage)


def rendered(place: Place, found: Sequence[tuple[int | None, Window | None]]) -> list[Place | RenderedImage]:
    """The images that a file becomes; one that needs no rendering is the place itself.

    Args:
        place: where the file lies.
        found: what `renderings` says of it.
    """
    return [
        place if (frame, window) == (None, None) else RenderedImage(source=place, frame=frame, window=window)
        for frame, window in found
    ]


def key_of(image: AnyImage) -> str:
    """Identity of an image: equal where two questions are surely about the same one."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    return image.key if isinstance(image, StoredImage | EncodedImage | RenderedImage) else str(image)


_STORED = re.compile(r"(?P<file>.+)#(?P<row>\d+)(?:\.(?P<item>\d+))?:(?P<column>.+)", re.DOTALL)
_ENCODED = re.compile(r"(?P<file>.+)#(?P<start>\d+)\+(?P<length>\d+)", re.DOTALL)


def place_of(image: AnyImage) -> str:
    """Where an image lies: `FILE`, `FILE#ROW:COLUMN` (of a list `ROW.ITEM`) or `FILE#START+LENGTH`; else in words.

    Rows are counted from 0 there. `image_at` reads all but bytes that lie nowhere and images that are rendered first.
    """
    if isinstance(image, bytes):
        return f"{len(image)} bytes"
    if isinstance(image, StoredImage):
        item = "" if image.item is None else f".{image.item}"
        return f"{image.file}#{image.row}{item}:{image.column}"
    return f"{image.file}#{image.start}+{image.length}" if isinstance(image, EncodedImage) else str(image)


def image_at(place: str | Path) -> bytes | Path:
    """What `place_of` names: a file, or the bytes of an image inside of a table.

    Raises:
        ValueError: the table has no such row or column, or holds no image there.
    """
    name = str(place)
    if Path(name).is_file():
        return Path(name)
    stored, encoded = _STORED.fullmatch(name), _ENCODED.fullmatch(name)
    found = stored or encoded
    if found is None or not Path(found["file"]).is_file():
        return Path(name)
    file = Path(found["file"])
    try:
        if stored:
            item = None if stored["item"] is None else int(stored["item"])
            row, column = int(stored["row"]), stored["column"]
            return StoredImage(file=file, column=column, row=row, key=name, item=item).read_bytes()
        start, length = int(found["start"]), int(found["length"])
        if start + length > file.stat().st_size:
            raise ValueError("it ends before that.")
        return EncodedImage(file=file, start=start, length=length, key=name).read_bytes()
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        said = str(error).split("\n")[0]
        raise ValueError(f"--image {name}: there is no image in the table: {said}") from error


def decode_base64(text: str | bytes, key: str) -> bytes:
    """What base64 means, white space left out; a ValueError names the image by its `key`."""
    try:
        content = text.encode() if isinstance(text, str) else text
        return base64.b64decode(b"".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{key}: its text is not an image in base64: {error}") from error


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
