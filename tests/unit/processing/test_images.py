"""Files to RGB images."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from dragonfly_lit.processing.images import decode, is_faint, to_rgb


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_png_comes_back_as_it_was(picture, tmp_path):
    image = picture(30, 20)
    (tmp_path / "a.png").write_bytes(encoded(image, "PNG"))
    assert decode(tmp_path / "a.png").tobytes() == image.tobytes()


def test_what_is_no_file_is_one_line_and_what_is_missing_is_missing(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    for path in (tmp_path, tmp_path / "a.png" / "b.png", tmp_path / ("n" * 300)):
        with pytest.raises(ValueError, match="cannot be read: ") as error:
            decode(path)
        assert str(error.value).startswith(f"image {path} ")
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "b.png")


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


CASES = Path(__file__).resolve().parents[2] / "cases"
RAMP = np.arange(0, 4096, 5, dtype=np.uint16).reshape(20, 41)
"""Values of 12 bits, which a file of 16 bits holds as they are."""


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What is expected of `values`, worked out in whole numbers."""
    exact = (values.astype(object) - low) * 510 + (high - low)
    return (exact // (2 * (high - low))).astype(np.uint8)


def tiff(image: Image.Image, **tags: int) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[int(tag.removeprefix("t"))] = value
    return encoded(image, "TIFF", tiffinfo=directory)


def grey(data: bytes, **options) -> np.ndarray:
    rgb = np.asarray(decode(data, **options))
    assert (rgb == rgb[..., :1]).all()
    return rgb[..., 0]


def test_12_bits_in_a_file_of_16_are_not_dark():
    low, high = decode(CASES / "14_u16_12bit.png").convert("L").getextrema()
    assert (low, high) == (0, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_more_than_8_bits_go_from_the_smallest_to_the_largest_value(kind):
    values = RAMP + 700
    assert (grey(encoded(Image.fromarray(values), kind)) == stretched(values, 700, int(values.max()))).all()


def test_every_value_of_16_bits_is_rounded_as_it_was():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert (grey(encoded(Image.fromarray(values), "PNG")) == (values.astype(np.uint32) + 128) // 257).all()


def test_16_bits_of_the_other_byte_order_are_the_same():
    values = RAMP.astype(">u2")
    image = Image.frombytes("I;16B", RAMP.shape[::-1], values.tobytes())
    assert (np.asarray(to_rgb(image))[..., 0] == stretched(RAMP, 0, int(RAMP.max()))).all()


@pytest.mark.parametrize("offset", [-2000, 0, 100_000])
def test_whole_numbers_of_32_bits_go_by_their_range(offset):
    values = RAMP.astype(np.int32) + offset
    assert (grey(encoded(Image.fromarray(values), "TIFF")) == stretched(RAMP, 0, int(RAMP.max()))).all()


def test_floating_point_goes_by_its_range():
    values = np.linspace(-1.5, 2.5, 256, dtype=np.float32).reshape(16, 16)
    assert (grey(encoded(Image.fromarray(values), "TIFF")) == np.arange(256).reshape(16, 16)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_floating_point_that_is_not_a_number_is_refused(bad):
    values = np.array([[0, 1], [2, bad]], dtype=np.float32)
    with pytest.raises(ValueError, match="which of them is white is unknown"):
        decode(encoded(Image.fromarray(values), "TIFF"))


def test_one_value_of_16_bits_is_a_share_of_them():
    assert (grey(encoded(Image.fromarray(np.full((3, 3), 32896, np.uint16)), "PNG")) == 128).all()


def test_a_window_says_what_is_black_and_white():
    assert (
        grey(encoded(Image.fromarray(RAMP), "PNG"), window=(1000, 2000))
        == stretched(np.clip(RAMP, 1000, 2000), 1000, 2000)
    ).all()
    with pytest.raises(ValueError, match="window 5 to 5 is empty"):
        decode(encoded(Image.fromarray(RAMP), "PNG"), window=(5, 5))


def test_a_window_leaves_8_bits_as_they_are(picture):
    image = picture(30, 20)
    assert decode(encoded(image, "PNG"), window=(0, 10)).tobytes() == image.tobytes()


def test_a_tiff_in_which_0_is_white_is_turned_round():
    assert (grey(tiff(Image.fromarray(RAMP), t262=0)) == 255 - stretched(RAMP, 0, int(RAMP.max()))).all()
    levels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    assert (grey(tiff(Image.fromarray(levels), t262=0)) == levels).all(), "Pillow turns 8 bits itself"


def test_the_clear_value_of_16_bits_is_white_and_not_part_of_the_range():
    values = np.array([[65535, 100, 200, 300]], dtype=np.uint16)
    assert grey(encoded(Image.fromarray(values), "PNG", transparency=65535)).tolist() == [[255, 0, 128, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_format_is_turned_as_its_exif_says_and_once(kind, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(picture(40, 20), kind, exif=exif)).size == (20, 40)


def test_16_bits_are_turned_too():
    turned = grey(tiff(Image.fromarray(RAMP), t274=6))
    assert (turned == np.rot90(stretched(RAMP, 0, int(RAMP.max())), -1)).all()


def test_one_bit_is_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert grey(encoded(image, "PNG")).tolist() == [[0, 255]]


def test_grey_with_alpha_lies_on_white():
    image = Image.fromarray(np.array([[[0, 0], [100, 255], [0, 128]]], np.uint8), "LA")
    assert grey(encoded(image, "PNG")).tolist() == [[255, 100, 127]]


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a colour, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, colours = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[colours], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_12_bits_a_colour_in_a_file_of_16_are_not_dark():
    values = np.random.default_rng(0).integers(3, 4096, (20, 30, 3))
    values[0, 0], values[0, 1] = 3, 4095
    assert (np.asarray(decode(deep_png(values))) == stretched(values, 3, 4095)).all()
    with_alpha = np.concatenate([values, np.full((20, 30, 1), 65535)], axis=-1)
    assert (np.asarray(decode(deep_png(with_alpha))) == stretched(values, 3, 4095)).all()


def test_16_bits_a_colour_keep_their_upper_8():
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 3))
    assert (np.asarray(decode(deep_png(values))) == values >> 8).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_bands_are_the_whole_image(mode, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8)
    layer = Image.fromarray(noise)
    image = layer.convert(mode) if mode != "P" else layer.convert("RGB").quantize(16)
    data = encoded(image, "PNG", **({"transparency": 3} if mode == "P" else {}))
    source = Image.open(BytesIO(data)).convert("RGBA")
    whole = Image.alpha_composite(Image.new("RGBA", source.size, "white"), source).convert("RGB")
    monkeypatch.setattr("dragonfly_lit.processing.images.BAND_PIXELS", 170)
    assert decode(data).tobytes() == whole.tobytes()


def test_a_large_jpeg_is_decoded_smaller_where_that_is_enough(picture):
    data = encoded(picture(800, 400), "JPEG")
    assert decode(data, max_side=100).size == (200, 100)
    assert decode(data, max_side=101).size == (400, 200)
    assert decode(data, max_side=800).tobytes() == decode(data).tobytes()
    assert decode(data, max_side=100, max_pixels=20_000).size == (200, 100)
    with pytest.raises(ValueError, match="says it has 800x400 pixels, more than max_pixels=19999"):
        decode(data, max_side=100, max_pixels=19_999)
    whole = encoded(picture(800, 400), "JPEG", progressive=True)
    assert decode(whole, max_side=100).size == (800, 400), "all of a progressive one is held in memory anyway"


PEAK = """
import resource, sys
from pathlib import Path
from dragonfly_lit.processing.images import decode
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("mode", ["1", "RGB", "RGBA", "LA", "P", "I;16"])
def test_decoding_takes_little_more_than_the_pixels(mode, tmp_path):
    Image.new(mode, (4000, 4000)).save(tmp_path / "a.png", compress_level=1)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 10 * 4000 * 4000, "bytes, of which the image in RGB takes 4 a pixel"


@pytest.mark.parametrize(
    ("values", "faint"),
    [([0, 255], False), ([10, 30], True), ([200, 200], True), ([100, 126], False)],
)
def test_an_image_that_hardly_shows_anything_is_faint(values, faint):
    pixels = np.resize(np.array(values, np.uint8), (64, 64))
    assert is_faint(Image.fromarray(pixels).convert("RGB")) is faint


def test_one_bright_pixel_does_not_hide_that_the_rest_is_dark():
    pixels = np.resize(np.arange(16, dtype=np.uint8), (120, 80))
    pixels[3, 3] = 255
    assert is_faint(Image.fromarray(pixels).convert("RGB"))
