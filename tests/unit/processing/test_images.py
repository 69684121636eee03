"""Files to RGB images."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dragonfly_lit.processing.images import decode, to_rgb


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_png_comes_back_as_it_was(picture, tmp_path):
    image = picture(30, 20)
    (tmp_path / "a.png").write_bytes(encoded(image, "PNG"))
    assert decode(tmp_path / "a.png").tobytes() == image.tobytes()


def test_16_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    rgb = np.asarray(decode(encoded(Image.fromarray(values), "PNG")))
    assert rgb[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparent_parts_are_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    rgb = decode(encoded(image, "PNG"))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (255, 0, 0)]


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert decode(encoded(image, "PNG", transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encoded(image, "PNG")).getpixel((0, 0)) == (10, 20, 30)


def test_cmyk_red_is_red():
    red, green, blue = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15


def test_an_image_is_turned_as_its_exif_says(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (40, 20), "blue")
    assert decode(encoded(image, "JPEG", exif=exif)).size == (20, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(mode):
    rgb = to_rgb(Image.new(mode, (3, 2)))
    assert (rgb.mode, rgb.size) == ("RGB", (3, 2))


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="which of them is white"):
        to_rgb(Image.new("F", (2, 2), 0.5))


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0x0"):
        to_rgb(Image.new("RGB", (0, 0)))


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (10000, 10000)])
def test_a_bomb_is_refused_by_its_header(width, height):
    with pytest.raises(ValueError, match=r"exceeds limit|max_pixels"):
        decode(bomb(width, height))


def test_max_pixels_is_the_callers(picture):
    data = encoded(picture(30, 20), "PNG")
    assert decode(data, max_pixels=600).size == (30, 20)
    with pytest.raises(ValueError, match="30x20 pixels, more than max_pixels=599"):
        decode(data, max_pixels=599)


def test_a_truncated_jpeg_is_refused(picture):
    data = encoded(picture(200, 200), "JPEG")
    with pytest.raises(ValueError, match="damaged"):
        decode(data[: len(data) // 2])


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be opened"):
        decode(tmp_path / "a.jpg")


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), place=st.floats(0, 0.99), value=st.binary(min_size=1, max_size=6))
def test_a_mutated_file_decodes_or_raises_value_error(picture, kind, place, value):
    data = bytearray(encoded(picture(24, 16), kind))
    start = int(place * len(data))
    data[start : start + len(value)] = value
    with suppress(ValueError):
        assert decode(bytes(data), max_pixels=10**6).mode == "RGB"
