"""The size of a plain JPEG, read without Pillow, is what Pillow says of it, or nothing."""

from __future__ import annotations

import random
import warnings
from io import BytesIO

import pytest
from PIL import Image

from dragonfly_lit.processing.images import FORMATS, MAX_PIXELS
from dragonfly_lit.processing.jpeg import plain_size

BYTES = (0x00, 0x01, 0x08, 0xFF, 0xC0, 0xC2, 0xC4, 0xD0, 0xD9, 0xDA, 0xDB, 0xE0, 0xE1, 0xFE)
"""Most of what a decoder looks at in a header."""


def encoded(mode: str, size: tuple[int, int] = (48, 32), **options) -> bytes:
    out = BytesIO()
    Image.effect_noise(size, 64).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": "said"}, {"quality": 100}], ids=str)
def test_a_plain_image_has_its_size(mode, options):
    assert plain_size(encoded(mode, **options), MAX_PIXELS) == (48, 32)


@pytest.mark.parametrize(
    "data",
    [
        encoded("CMYK"),
        encoded("RGB", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
        encoded("RGB", icc_profile=b"profile"),
        encoded("RGB")[:100],
        b"\x89PNG\r\n\x1a\n",
        b"",
    ],
    ids=["cmyk", "exif", "profile", "cut", "png", "empty"],
)
def test_whatever_is_unusual_is_left_to_pillow(data):
    assert plain_size(data, MAX_PIXELS) is None


def test_a_larger_image_than_is_allowed_is_left_to_pillow():
    assert plain_size(encoded("L"), 48 * 32) == (48, 32)
    assert plain_size(encoded("L"), 48 * 32 - 1) is None


def test_a_damaged_header_never_has_a_size_that_pillow_does_not_give():
    rng, whole = random.Random(0), [encoded("L"), encoded("RGB"), encoded("RGB", progressive=True, comment="said")]
    plain = 0
    for number in range(3000):
        data = bytearray(whole[number % len(whole)])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(700)
            if rng.random() < 0.7:
                data[at] = rng.choice(BYTES)
            else:
                del data[at : at + rng.randrange(1, 4)]
        size = plain_size(bytes(data), MAX_PIXELS)
        if size is not None:
            plain += 1
            with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(data), formats=FORMATS) as image:
                assert (image.size, image.mode in ("L", "RGB")) == (size, True)
    assert plain > 300
