"""Members of an uncompressed tar, read by offset: headers are checked, links and devices are refused.

Python's `tarfile` walks a file from its start and guesses where headers are broken; a sample fetched
by one read needs neither. Formats: ustar, GNU long names, pax (as Python and webdataset write it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import adler32

BLOCK = 512
MAX_MEMBER_BYTES = 256 * 2**20
MAX_NAME_BYTES = 64 * 2**10
ReadAt = Callable[[int, int], bytes]
"""Bytes of (offset, size), fewer at the end of the file."""


class TarError(ValueError):
    """The file is not a tar from some byte on."""


class Member(NamedTuple):
    """A regular file of a tar: its name, where its header, its bytes and the next header start."""

    name: str
    header: int
    start: int
    size: int
    end: int


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
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


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
        fields[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    return fields


def members(read: ReadAt, start: int, end: int) -> Iterator[Member]:
    """The regular files whose headers lie in [start, end), in order; directories are passed over.

    Stops at the end-of-archive mark (a block of zeros) or at `end`.

    Raises:
        TarError: a header is broken, a member reaches beyond `end`, or a member is a link or a device.
    """
    offset, first, long_name, pax = start, start, "", {}
    while offset < end:
        block = read(offset, BLOCK)
        if len(block) < BLOCK:
            raise TarError(f"the tar ends inside a header, at byte {offset + len(block)}")
        if not block[0] and not block.strip(b"\0"):
            return
        name, size, kind = _parse(block, offset)
        if pax and pax.get("size", "").isdigit():
            size = int(pax["size"])
        data, after = offset + BLOCK, offset + BLOCK + -(-size // BLOCK) * BLOCK
        if data + size > end:
            raise TarError(f"member {name!r} needs bytes up to {data + size}, but the tar ends at {end}")
        if kind in (b"x", b"L", b"g", b"K"):
            if size > MAX_NAME_BYTES:
                raise TarError(f"the extended header at byte {offset} has {size} bytes; at most {MAX_NAME_BYTES}")
            body = read(data, size)
            if kind == b"x":
                pax = _pax(body, offset) if b" path=" in body or b" size=" in body else {}
            elif kind == b"L":
                long_name = _text(body)
        elif kind in (b"0", b"\0"):
            yield Member(pax.get("path") or long_name or name, first, data, size, min(after, end))
            long_name, pax, first = "", {}, after
        elif kind == b"5":
            long_name, pax, first = "", {}, after
        else:
            raise TarError(f"member {name!r} is not a regular file (type {kind!r})")
        offset = after


def files_in(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every regular file of a tar, in order; one member is in memory at a time.

    Raises:
        TarError: as `members` says; the message names the file.
    """
    with path.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        try:
            for member in members(read, 0, path.stat().st_size):
                yield member.name, read(member.start, member.size)
        except TarError as error:
            raise TarError(f"{path}: {error}.") from error
