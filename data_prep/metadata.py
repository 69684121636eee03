"""What an encoded image says besides its pixels (EXIF, XMP, ICC profile, texts, thumbnails), found and left out.

The container is written again without it and no pixel is encoded again, so pixels stay bit for bit. The one tag that
pixels need, the orientation, is kept in an EXIF of its own. Only what a decoder needs is copied: whatever else is
there, known or not, is metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

from dragonfly_lit.processing.images import orientation

from .shards import image_extension

PNG_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
PNG_KINDS = {b"eXIf": "EXIF", b"iCCP": "ICC profile", b"tEXt": "text", b"zTXt": "text", b"iTXt": "text"}
PNG_SIZES = {
    b"IHDR": (13,), b"PLTE": range(3, 769, 3), b"tRNS": range(257), b"gAMA": (4,), b"cHRM": (32,), b"sRGB": (1,),
    b"sBIT": (1, 2, 3, 4), b"pHYs": (9,), b"bKGD": (1, 2, 6), b"hIST": range(2, 513, 2), b"cICP": (4,),
    b"mDCV": (24,), b"cLLI": (8,),
}  # fmt: skip
"""How many bytes these chunks may have: what is longer may say anything. Those that no decoder here needs hold numbers
about colours and sizes, which name nobody."""
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
JPEG_NEEDED = frozenset(
    (*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDA, 0xDB, 0xDD)  # frames, tables of Huffman and arithmetic coding
)
"""Frames, tables, scans and restarts: decoders refuse one that is longer than it says."""
WEBP_NEEDED = (b"VP8 ", b"VP8L", b"ALPH")
WEBP_KINDS = {b"EXIF": "EXIF", b"XMP ": "XMP", b"ICCP": "ICC profile"}
WEBP_FLAGS = 0x04 | 0x08 | 0x20
"""Bits of VP8X that announce XMP, EXIF and an ICC profile."""
_WEBP_HAS_EXIF = 0x08
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Behind the compressed data of a JPEG's scan. One byte that is always the same comes first: such a pattern is looked
for at the speed of memory, and compressed data is nearly all of an image."""


class Part(NamedTuple):
    """A stretch of an image file: the bytes of it that are needed, and what kind of metadata it holds besides."""

    needed: bytes
    kind: str = ""


def metadata_in(data: bytes) -> tuple[str, ...]:
    """The kinds of metadata that an encoded JPEG, PNG or WebP holds, in the order in which they come.

    An EXIF that holds the orientation alone is none: `stripped` leaves it.

    Raises:
        ValueError: the file is none of them, or its container is damaged.
    """
    return tuple(dict.fromkeys(part.kind for part in _parts(data) if part.kind))


def stripped(data: bytes) -> bytes:
    """The same image without metadata: the same pixels, upright as before; `data` itself where it has none.

    Args:
        data: an encoded JPEG, PNG or WebP.

    Raises:
        ValueError: the file is none of them, or its container is damaged.
    """
    parts = _parts(data)
    if not any(part.kind for part in parts):
        return data
    return JOINED[image_extension(data) or ""]([part.needed for part in parts], orientation(data))


def _parts(data: bytes) -> list[Part]:
    extension = image_extension(data)
    if extension not in PARTS:
        raise ValueError("image is none of JPEG, PNG and WebP, so its metadata cannot be found.")
    try:
        return list(PARTS[extension](data))
    except (IndexError, _DamagedError) as error:
        raise ValueError(
            f"image of {len(data)} bytes is damaged: its {extension} container ends within a part."
        ) from error


class _DamagedError(Exception):
    """A part of a container is not whole."""


def _check(whole: bool) -> None:
    if not whole:
        raise _DamagedError


def exif(turned: int) -> bytes:
    """An EXIF (a TIFF header and one directory) that holds the orientation and nothing else."""
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01" + turned.to_bytes(2) + b"\x00\x00"
    return b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"


_OURS = tuple(exif(turned) for turned in range(1, 9))


def _exif_kind(content: bytes) -> str:
    return "" if content in _OURS else "EXIF"


def _take(data: bytes, start: int, size: int) -> bytes:
    """So many bytes, all of which are there."""
    found = data[start : start + size]
    _check(len(found) == size)
    return found


def _jpeg(data: bytes) -> Iterator[Part]:
    yield Part(_take(data, 0, 2))
    place = kept = 2  # what is needed, from `kept` on, is taken over as it is, however many segments it has
    while place < len(data):
        start = place
        _check(data[place] == 0xFF)
        while data[place + 1] == 0xFF:  # fill bytes
            place += 1
        marker, place = data[place + 1], place + 2
        size = int.from_bytes(data[place : place + 2])
        if marker in JPEG_NEEDED and size >= 2 and place == start + 2:
            place += size
            _check(place <= len(data))
            if marker == 0xDA:
                place = end_of_scan(data, place)
            continue
        if kept < start:
            yield Part(data[kept:start])
        if marker == 0xD9:
            yield Part(b"\xff\xd9", "data behind its end" if data[place:].strip(b"\0\r\n") else "")
            return
        if not (marker == 0x01 or 0xD0 <= marker <= 0xD7):
            _take(data, place, 2)
            content = _take(data, place + 2, max(0, size - 2))
            place += max(2, size)
            yield _jpeg_segment(marker, content)
            if marker == 0xDA:
                end = end_of_scan(data, place)
                yield Part(data[place:end])
                place = end
        kept = place
    if kept < place:
        yield Part(data[kept:place])


def end_of_scan(data: bytes, place: int) -> int:
    """Where the compressed data of a JPEG's scan, from `place` on, ends: before the fill bytes of the next marker."""
    found = _NEXT_MARKER.search(data, place)
    if found is None:
        return len(data)  # a download that was cut: as much as is there
    end = found.start()
    while end > place and data[end - 1] == 0xFF:
        end -= 1
    return end


def _jpeg_segment(marker: int, content: bytes) -> Part:
    if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        return Part(_segment(marker, content[:12] + b"\0\0"), "thumbnail" if len(content) > 14 else "")
    if marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:  # says what the colours are
        return Part(_segment(marker, content[:12]), "text" if len(content) > 12 else "")
    if marker in JPEG_NEEDED:
        return Part(_segment(marker, content))
    if marker == 0xE1 and content.startswith(b"Exif\0\0"):
        return Part(b"", _exif_kind(content[6:]))
    if marker == 0xE1 and b"ns.adobe.com/x" in content[:40]:
        return Part(b"", "XMP")
    if marker == 0xE2 and content.startswith(b"ICC_PROFILE\0"):
        return Part(b"", "ICC profile")
    if 0xE0 <= marker <= 0xEF:
        return Part(b"", "IPTC" if marker == 0xED else f"APP{marker - 0xE0}")
    return Part(b"", "text" if marker == 0xFE else f"segment {marker:02X}")  # DNL and others that decoders skip


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2) + content


def _join_jpeg(parts: Sequence[bytes], turned: int) -> bytes:
    first, *others = parts
    said = b"" if turned == 1 else _segment(0xE1, b"Exif\0\0" + exif(turned))
    if others and others[0].startswith(b"\xff\xe0"):  # JFIF comes first of all
        return b"".join([first, others[0], said, *others[1:]])
    return b"".join([first, said, *others])


def _png(data: bytes) -> Iterator[Part]:
    yield Part(_take(data, 0, 8))
    place = 8
    while True:
        size, name = int.from_bytes(_take(data, place, 4)), _take(data, place + 4, 4)
        whole = _take(data, place, size + 12)
        place += size + 12
        if name == b"IEND":
            yield Part(PNG_END, "data behind its end" if size or data[place:].strip(b"\0\r\n") else "")
            return
        if name == b"IDAT" or size in PNG_SIZES.get(name, ()):
            yield Part(whole)
        elif name == b"eXIf":
            yield Part(b"", _exif_kind(whole[8:-4]))
        else:
            _check(name not in PNG_NEEDED)
            what = "XMP" if whole[8:].startswith(b"XML:com.adobe.xmp") else PNG_KINDS.get(name)
            yield Part(b"", what or _other(name))


def _join_png(parts: Sequence[bytes], turned: int) -> bytes:
    content = b"eXIf" + exif(turned)
    said = b"" if turned == 1 else len(exif(turned)).to_bytes(4) + content + crc32(content).to_bytes(4)
    return b"".join([*parts[:2], said, *parts[2:]])  # behind the signature and IHDR


def _webp(data: bytes) -> Iterator[Part]:
    end = 8 + int.from_bytes(_take(data, 4, 4), "little")
    _check(end <= len(data) + 1)  # the last byte of padding is often missing
    yield Part(_take(data, 0, 12), "data behind its end" if data[end:].strip(b"\0\r\n") else "")
    for name, content in _chunks(data[:end], 12):
        if name == b"VP8X":
            yield Part(_chunk(name, bytes((content[0] & ~WEBP_FLAGS,)) + content[1:]))
        elif name == b"ANIM":
            yield Part(_chunk(name, _take(content, 0, 6)), _other(name) if content[6:] else "")
        elif name == b"EXIF":
            yield Part(b"", _exif_kind(content.removeprefix(b"Exif\0\0")))
        elif name == b"ANMF":
            yield _webp_frame(content)
        elif name in WEBP_NEEDED:
            yield Part(_chunk(name, content))
        else:
            yield Part(b"", WEBP_KINDS.get(name) or _other(name))


def _chunks(data: bytes, place: int) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of the chunks of a RIFF from `place` on."""
    while place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        yield name, _take(data, place + 8, size)
        place += 8 + size + size % 2


def _other(name: bytes) -> str:
    return f"chunk {name.decode('latin-1')!r}"


def _webp_frame(content: bytes) -> Part:
    """A frame of an animation, which holds chunks of its own behind a header of 16 bytes."""
    kept, kind = _take(content, 0, 16), ""
    for name, inner in _chunks(content, 16):
        if name in WEBP_NEEDED:
            kept += _chunk(name, inner)
        else:
            kind = _other(name)
    return Part(_chunk(b"ANMF", kept), kind)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)


def _join_webp(parts: Sequence[bytes], turned: int) -> bytes:
    chunks = [*parts[1:]]
    place = next((number for number, chunk in enumerate(chunks) if chunk.startswith(b"VP8X")), None)
    if turned != 1 and place is not None:  # without VP8X no decoder looks for tags
        said = chunks[place]
        chunks[place] = said[:8] + bytes((said[8] | _WEBP_HAS_EXIF,)) + said[9:]
        chunks.append(_chunk(b"EXIF", exif(turned)))
    whole = b"".join(chunks)
    return b"RIFF" + (len(whole) + 4).to_bytes(4, "little") + b"WEBP" + whole


PARTS = {"jpg": _jpeg, "png": _png, "webp": _webp}
JOINED = {"jpg": _join_jpeg, "png": _join_png, "webp": _join_webp}
