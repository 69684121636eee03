"""Members of an uncompressed tar, read by offset: headers are checked, and nothing is lost without a word.

Python's `tarfile` walks a file from its start and stops in silence where a header is zeroed or an archive ends; a
sample fetched by one read needs neither. Formats: ustar, GNU long names, pax (as Python and webdataset write it).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import adler32

import numpy as np

BLOCK = 512
RECORD = 20 * BLOCK
"""What `tar`, Python and webdataset pad an archive to with zeros."""
MAX_MEMBER_BYTES = 256 * 2**20
MAX_NAME_BYTES = 64 * 2**10
ReadAt = Callable[[int, int], bytes]
"""Bytes of (offset, size), fewer at the end of the file."""
_CHUNK = 2**20
_REGULAR = (b"0", b"\0", b"7")
_EXTENDED = (b"x", b"X", b"g", b"L", b"K")
_WITHOUT_DATA = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
}
"""Types whose size field counts nothing: the next header follows at once."""


class TarError(ValueError):
    """The file is not a tar from some byte on: `at` is where the header of the broken member, or what leads it, is."""

    def __init__(self, message: str, at: int = 0):
        super().__init__(message)
        self.at = at


class Member(NamedTuple):
    """A member of a tar: its name, where its header, its bytes and the next header start.

    Attributes:
        name: with the folders, as the tar has it.
        header: where its first header lies, one for a long name included.
        start: of its bytes.
        size: of them.
        end: where the next header lies.
        other: what it is in place of a regular file, such as `a symbolic link to x.jpg`; empty for a file.
    """

    name: str
    header: int
    start: int
    size: int
    end: int
    other: str = ""


class Gap(NamedTuple):
    """Bytes between two members that are none: the end mark of an archive, or damage if there is a `why`."""

    start: int
    end: int
    why: str = ""

    def __str__(self) -> str:
        if self.start == self.end:
            return self.why
        return f"bytes {self.start:,} to {self.end:,} cannot be read ({self.why})"


def _number(field: bytes) -> int:
    text = field.strip(b"\0 ")
    if text.isdigit():
        return int(text, 8)
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    if text:
        raise ValueError(f"{text!r} is not an octal number")
    return 0


def _text(field: bytes) -> str:
    # A name in another encoding than UTF-8 stays one, and can be printed: its other bytes become \xNN.
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _parse(block: bytes, offset: int) -> tuple[str, int, bytes]:
    """Name, size and type of a header."""
    try:
        written = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError as error:
        raise TarError(f"byte {offset} is not a tar header ({error})") from None
    # Adler-32's low half is 1 + the sum of the bytes, modulo 65,521: twenty times as fast as `sum`.
    if ((adler32(block) & 0xFFFF) - 1 - sum(block[148:156]) + 256 - written) % 65521:
        raise TarError(f"the tar header at byte {offset} has a wrong checksum")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return name, size, block[156:157]


def _pax(data: bytes, offset: int) -> dict[str, str]:
    """The `size key=value` lines of a pax header."""
    fields: dict[str, str] = {}
    while data and data[:1] != b"\0":
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            raise TarError(f"the pax header at byte {offset} is broken")
        line, data = data[len(length) + 1 : int(length)], data[int(length) :]
        key, _, value = line.rstrip(b"\n").partition(b"=")
        fields[key.decode("utf-8", "replace")] = value.decode("utf-8", "backslashreplace")
    return fields


def members(read: ReadAt, start: int, end: int) -> Generator[Member, None, int]:
    """The members whose headers lie in [start, end), in order; folders are passed over.

    Stops at an end-of-archive mark (a block of zeros) or at `end`, and returns where that is.

    Raises:
        TarError: a header is broken, or a member reaches beyond `end`.
    """
    offset, first, long_name, pax = start, start, "", {}
    try:
        while offset < end:
            block = read(offset, BLOCK)
            if len(block) < BLOCK:
                raise TarError(f"the tar ends inside a header, at byte {offset + len(block)}")
            if not block[0] and not block.strip(b"\0"):
                break
            name, size, kind = _parse(block, offset)
            if pax and pax.get("size", "").isdigit():
                size = int(pax["size"])
            data = offset + BLOCK
            offset = data if kind in _WITHOUT_DATA else data + -(-size // BLOCK) * BLOCK
            if offset > data and data + size > end:
                raise TarError(f"member {name!r} needs bytes up to {data + size}, but the tar ends at {end}")
            if kind in _EXTENDED:
                if size > MAX_NAME_BYTES:
                    raise TarError(f"the extended header at byte {first} has {size} bytes; at most {MAX_NAME_BYTES}")
                body = read(data, size)
                if kind in (b"x", b"X"):
                    told = b" path=" in body or b" size=" in body or b" GNU.sparse." in body
                    pax = _pax(body, first) if told else {}
                elif kind == b"L":
                    long_name = _text(body)
                continue
            other = ""
            if kind not in _REGULAR or pax:
                other = _other(kind, block, pax)
            if kind == b"S":
                offset = _after_sparse(read, block, data, offset)
            if not (kind == b"5" or (kind == b"\0" and name.endswith("/"))):
                name = pax.get("GNU.sparse.name") or pax.get("path") or long_name or name
                yield Member(name, first, data, size, min(offset, end), other)
            long_name, pax, first = "", {}, offset
        if first < min(offset, end):
            raise TarError(f"nothing follows the extended header at byte {first}")
    except TarError as error:
        raise TarError(str(error), first) from None
    return min(offset, end)


def _other(kind: bytes, block: bytes, pax: dict[str, str]) -> str:
    """What a member is in place of a regular file; empty for a file."""
    if kind in (b"1", b"2"):
        return f"{_WITHOUT_DATA[kind]} to {_text(block[157:257])!r}"
    if kind == b"S" or any(key.startswith("GNU.sparse.") for key in pax):
        return "a sparse file"
    return "" if kind in _REGULAR else _WITHOUT_DATA.get(kind, f"of type {kind!r}")


def _after_sparse(read: ReadAt, block: bytes, extra: int, after: int) -> int:
    """Where the next header lies behind a sparse file of the old GNU format, whose map may need blocks of its own."""
    more = block[482]
    while more:
        block = read(extra, BLOCK)
        if len(block) < BLOCK:
            raise TarError(f"the tar ends inside a header, at byte {extra + len(block)}")
        more, extra, after = block[504], extra + BLOCK, after + BLOCK
    return after


def walk(read: ReadAt, end: int, start: int = 0) -> Iterator[Member | Gap]:
    """The members of a tar from byte `start` to `end`, and what lies between them: end marks, and damage with a `why`.

    Archives joined by `cat` are read on behind an end mark, as GNU tar's `--ignore-zeros` does. Whatever is neither a
    member nor the padding that a writer of tars leaves is damage, and the walk goes on at the next whole header: a
    broken or a zeroed header, a hole, the zeros of a download that was not finished, bytes behind the end.
    """
    offset, origin = start, 0
    while offset < end:
        why = ""
        try:
            stopped = yield from members(read, offset, end)
        except TarError as error:
            stopped, why = error.at, str(error)
        if stopped == end:
            break
        blank, offset = _next_header(read, stopped + BLOCK if why else stopped, end)
        if not why and blank and _is_padding(origin, stopped, offset, end):
            yield Gap(stopped, offset)
            origin = offset
            if offset == end:
                return
        else:
            yield Gap(stopped, offset, why or _what_is_wrong(stopped, offset, end, blank))
            if offset == end:
                return
    yield Gap(end, end, f"no end-of-archive mark at byte {end}; the file was cut or is still being written")


def _next_header(read: ReadAt, offset: int, end: int) -> tuple[bool, int]:
    """Whether zeros only come before the next whole header, and where that is; `end` without one."""
    blank = True
    while offset < end:
        chunk = read(offset, min(_CHUNK, end - offset))
        if not chunk:
            break
        if chunk.strip(b"\0"):
            blocks = np.frombuffer(chunk, np.uint8, len(chunk) // BLOCK * BLOCK).reshape(-1, BLOCK)
            used = np.any(blocks, axis=1)
            octal = (blocks[:, 148:154] >= ord("0")) & (blocks[:, 148:154] <= ord("7")) | (blocks[:, 148:154] == 32)
            for place in np.flatnonzero(used & octal.all(axis=1)):
                try:
                    _parse(blocks[place].tobytes(), 0)
                except TarError:
                    continue
                return blank and not used[:place].any(), offset + int(place) * BLOCK
            blank = False
        offset += len(chunk)
    return blank, end


def _is_padding(origin: int, start: int, following: int, end: int) -> bool:
    """Whether zeros are as many as a writer leaves behind an archive that began at `origin`.

    Two blocks at least, then up to a full record: of 10,240 bytes as nearly all write them, or at the end of a file of
    a power of two (`tar -b`, or none at all). Other numbers are a hole where members were.
    """
    size, zeros = following - origin, following - start
    record = RECORD if size % RECORD == 0 else 0
    if following == end and start > origin:
        record = max(record, size & -size)
    return 2 * BLOCK <= zeros < 2 * BLOCK + record


def _what_is_wrong(start: int, following: int, end: int, blank: bool) -> str:
    if not blank:
        return "zeros in place of a tar header" if following < end else "bytes behind the end of the archive"
    if following - start < 2 * BLOCK:
        return f"no end-of-archive mark at byte {start}; the file was cut or is still being written"
    return "zeros where members should be: a download or a copy that was not finished leaves such"


def read_from(fd: int) -> ReadAt:
    """Bytes of an open file by place."""
    return lambda offset, size: os.pread(fd, size, offset)


def files_in(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every regular file of a tar, in order; one member is in memory at a time.

    Raises:
        TarError: a part of it cannot be read, or a member is not a regular file; the message names the file.
    """
    with path.open("rb") as file:
        read = read_from(file.fileno())
        for found in walk(read, path.stat().st_size):
            if isinstance(found, Gap):
                if found.why:
                    raise TarError(f"{path}: {found}.")
            elif found.other:
                raise TarError(f"{path}: member {found.name!r} is not a regular file but {found.other}.")
            elif found.size > MAX_MEMBER_BYTES:
                raise TarError(f"{path}: member {found.name!r} has {found.size} bytes; at most {MAX_MEMBER_BYTES}.")
            else:
                yield found.name, read(found.start, found.size)
