"""Encoded bytes to an RGB image: the one place where an untrusted image file is opened."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened at all; the rest of Pillow's (EPS runs Ghostscript) stays shut."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit, a quarter of a gigabyte of RGB."""


def decode(data: bytes | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image of a file or of its bytes, in RGB, upright, on white.

    Of an animation the first frame is taken. The size is checked in the header, before a pixel is decoded.

    Raises:
        ValueError: the file is not an image of a known format, is damaged, or has more than `max_pixels` pixels.
    """
    name = str(data) if isinstance(data, Path) else f"of {len(data)} bytes"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is the stricter one
            image = Image.open(data if isinstance(data, Path) else BytesIO(data), formats=FORMATS)
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's plugins raise anything from struct.error to KeyError on damaged headers
        raise ValueError(f"image {name} cannot be opened as {', '.join(FORMATS)}: {error}") from error
    with image:
        if image.width * image.height > max_pixels:
            raise ValueError(
                f"image {name} says it has {image.width}x{image.height} pixels, more than max_pixels={max_pixels}. "
                "Raise max_pixels if it is meant to."
            )
        try:
            image.load()
            return to_rgb(image)
        except Exception as error:  # as above, from the decoders
            raise ValueError(f"image {name} is damaged or of an unknown kind: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in RGB, turned as its EXIF says, its transparent parts on white, its 16 bits a channel cut to 8.

    Raises:
        ValueError: the image has no pixels, or its mode has no defined white (floating point, over 16 bits).
    """
    if not image.width or not image.height:
        raise ValueError(f"image of {image.width}x{image.height} pixels has nothing to look at.")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # upright, it would be copied all the same
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion to 8 bits clips at 255, which makes a 16-bit X-ray white.
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(
            f"image of mode {image.mode} has values from {values.min()} to {values.max()}; "
            "which of them is white is unknown. Save it with 8 or 16 bits a channel."
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
