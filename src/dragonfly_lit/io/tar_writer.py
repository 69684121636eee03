"""Samples into a tar, byte for byte as webdataset writes them with fixed times and owners; torch is not needed."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from typing import BinaryIO

from dragonfly_lit.io.tar import BLOCK, RECORD

_LONGEST_NAME, _LARGEST = 100, 8**11
_MODE_AND_OWNERS = b"0000644\0" + 2 * b"0000000\0"
_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(64 + 16 + 167)
"""Behind the checksum: a regular file, no link, POSIX, no names of owners, no device, no prefix."""
_BLANK_SUM = sum(_MODE_AND_OWNERS) + sum(_REST) + sum(b"00000000000\0") + sum(b" " * 8)


def header(name: str, size: int) -> bytes:
    """The header of a regular file with mode 644, time 0 and no owner; longer where the name or the size needs it."""
    if not name.isascii() or len(name) > _LONGEST_NAME or size >= _LARGEST:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    length = b"%011o\0" % size
    written = name.encode()
    checksum = _BLANK_SUM + sum(written) + sum(length)
    return b"".join(
        (written.ljust(100, b"\0"), _MODE_AND_OWNERS, length, b"00000000000\0", b"%06o\0 " % checksum, _REST)
    )


class SampleWriter:
    """Writes one tar of samples; `close` ends it.

    Args:
        file: open for writing, at its start.

    Attributes:
        offset: bytes that were written.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.offset = file, 0

    def write(self, key: str, members: Mapping[str, bytes]) -> bytes:
        """Write the members of a sample, ordered by extension; the bytes that were written.

        Args:
            key: of the sample.
            members: bytes by extension.
        """
        parts: list[bytes] = []
        for extension in sorted(members):
            data = members[extension]
            parts += (header(f"{key}.{extension}", len(data)), data, bytes(-len(data) % BLOCK))
        written = b"".join(parts)
        self.file.write(written)
        self.offset += len(written)
        return written

    def close(self) -> bytes:
        """Write the mark of the end and fill up the last record; the bytes that were written."""
        end = bytes(2 * BLOCK + -(self.offset + 2 * BLOCK) % RECORD)
        self.file.write(end)
        self.offset += len(end)
        return end
