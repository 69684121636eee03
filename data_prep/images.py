"""A name in the image folder, or encoded bytes, to the bytes that go into a shard."""

from __future__ import annotations

import os
import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image

from dragonfly_lit.io.inside import inside
from dragonfly_lit.processing.images import FORMATS, MAX_PIXELS, decode

from .shards import image_extension

JPEG_QUALITY = 95


def find_image(name: str, folder: Path | None) -> Path:
    """The file that a row's image name means.

    Raises:
        ValueError: there is no image folder, the name leaves it or is an address, or no such file is there.
    """
    if isinstance(name, str) and "://" in name:
        raise ValueError(
            f"image {name} is an address, and nothing is downloaded. Fetch it, give its folder with --images."
        )
    if folder is None:
        raise ValueError(f"image {name} is a name, but there is no image folder. Give it with --images DIR.")
    try:
        path = inside(folder, name)
    except ValueError as error:
        raise ValueError(f"image {error} Nothing outside of the folder of --images is read.") from error
    if not os.path.isfile(path):
        raise ValueError(f"image {name} is missing: no such file in {folder}.")
    return path


def load_image(image: str | bytes, folder: Path | None, max_side: int | None) -> bytes:
    """Encoded bytes of an image: as they are if a shard may hold them, else as PNG; smaller if `max_side` asks for it.

    Args:
        image: name in `folder`, or the encoded image.
        folder: the image folder.
        max_side: longest side in pixels; a larger image is scaled down (JPEG stays JPEG, the rest becomes PNG).

    Raises:
        ValueError: the image cannot be found or opened.
    """
    data = image if isinstance(image, bytes) else find_image(image, folder).read_bytes()
    extension = image_extension(data)
    width, height = _size(data) if extension else (0, 0)
    if extension and (max_side is None or max(width, height) <= max_side):
        return data
    picture = decode(data)
    if max_side is not None and max(picture.size) > max_side:
        scale = max_side / max(picture.size)
        smaller = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((smaller[0], smaller[1]), Image.Resampling.LANCZOS)
    out = BytesIO()
    if extension == "jpg":
        picture.save(out, "JPEG", quality=JPEG_QUALITY)
    else:
        picture.save(out, "PNG")
    return out.getvalue()


def _size(data: bytes) -> tuple[int, int]:
    """Width and height from the header; no pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is the stricter one
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Exception as error:  # Pillow's plugins raise anything from struct.error to KeyError on damaged headers
        raise ValueError(f"image of {len(data)} bytes cannot be opened: {error}") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"image says it has {width}x{height} pixels; training decodes at most {MAX_PIXELS}.")
    return width, height
