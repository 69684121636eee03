"""The size of a plain JPEG from its segments: what Pillow says of it for a fraction of the time, or nothing at all."""

from __future__ import annotations

from struct import Struct, error

_SEGMENT = Struct(">BBH").unpack_from
"""0xFF, the marker and the length, which counts its own two bytes."""
_FRAME = Struct(">BHHB").unpack_from
"""Bits of a sample, height, width and number of components."""
_QUANTIZATION, _SCAN, _JFIF = 0xDB, 0xDA, 0xE0
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
"""Baseline, extended and progressive."""
_PASSED_OVER = frozenset((0xC4, 0xDD, 0xFE))
"""Huffman tables, restart intervals and comments: Pillow reads none of them when it opens a file."""


def plain_size(data: bytes, max_pixels: int) -> tuple[int, int] | None:
    """Width and height of a JPEG of 8 bits that Pillow opens without a doubt as grey or as three colours.

    Args:
        data: an encoded image of any format.
        max_pixels: a larger image is left to Pillow, which may refuse it.

    Returns:
        None where anything is unusual before the first scan, a thumbnail, EXIF or a profile among it: Pillow is to say.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    place, size = 2, None
    try:
        while True:
            mark, marker, length = _SEGMENT(data, place)
            start, end = place + 4, place + 2 + length
            if mark != 0xFF or length < 2 or end > len(data):
                return None
            if marker == _QUANTIZATION:
                if (length - 2) % 65 or any(data[table] > 15 for table in range(start, end, 65)):
                    return None
            elif marker in _FRAMES:
                bits, height, width, colours = _FRAME(data, start)
                if size or bits != 8 or colours not in (1, 3) or length != 8 + 3 * colours:
                    return None
                size = width, height
            elif marker == _SCAN:
                return size if size and 0 < size[0] * size[1] <= max_pixels else None
            elif marker not in _PASSED_OVER and not (
                marker == _JFIF and length >= 16 and data.startswith(b"JFIF\0", start)
            ):
                return None
            place = end
    except error:  # the data ends within a segment
        return None
