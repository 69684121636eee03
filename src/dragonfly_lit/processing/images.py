"""Encoded bytes to an RGB image: the one place where an untrusted image file is opened."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from zlib import decompressobj
from zlib import error as ZlibError

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dragonfly_lit.processing.dicom import decode_dicom, dicom_header, is_dicom, scaled
from dragonfly_lit.processing.jpeg import plain_size

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened at all; the rest of Pillow's (EPS runs Ghostscript) stays shut."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit. So many pixels are 0.36 GB in RGB (Pillow keeps 4 bytes a pixel), and at most 0.8 GB while they
are decoded from transparent layers or from 16 bits."""

BAND_PIXELS = 2**20
"""So many pixels are converted at a time, so that what lies between the file and its RGB stays small."""

FAINT = 0.1
"""An image whose values span less than this share of black to white is noted by `lint`."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""The TIFF tag that says which end of the range is white."""

_DARK_COLOUR = 64
_OTHER_BYTE = {f"{mode};16{one}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for one, other in ("BL", "LB", "NB")}


Window = tuple[int | float, int | float]
"""The values that become black and white."""


def decode(
    data: bytes | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    max_side: int | None = None,
    window: Window | None = None,
    frame: int | None = None,
) -> Image.Image:
    """The image of a file or of its bytes, in RGB, upright, on white; `to_rgb` says what becomes of its values.

    Of an animation the first frame is taken. The size is checked in the header, before a pixel is decoded. Of 16 bits
    a colour the upper 8 are taken, unless none of them is above a quarter of the range: then the smallest of its values
    becomes 0 and the largest 255, as for an image in grey. DICOM is decoded by the rules of `dicom.decode_dicom`.

    Args:
        data: the file, or its bytes.
        max_pixels: more are refused; of a JPEG that `max_side` lets be decoded smaller, the smaller ones count.
        max_side: the longest side that is needed, in pixels: a JPEG is decoded at a half, a quarter or an eighth of its
            size where that is at least twice as long. It is not scaled down to it.
        window: black and white of an image of more than 8 bits, in its own values.
        frame: which of a DICOM file's, from 0; None is the only one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, is not an image of a known format, is damaged, or has more than
            `max_pixels` pixels.
    """
    name = str(data) if isinstance(data, Path) else f"of {len(data)} bytes"
    if is_dicom(data):
        check_pixels(*dicom_header(data)[:2], name, max_pixels)
        return decode_dicom(data, frame=frame, window=window)
    with _opened(data, name) as image:
        said = image.size
        # A progressive JPEG is held whole in memory while it is decoded, however small it is to become.
        if max_side is not None and image.format in ("JPEG", "MPO") and "progressive" not in image.info:
            ratio = 2 * max_side / max(said)
            image.draft(None, (max(1, round(said[0] * ratio)), max(1, round(said[1] * ratio))))
        if image.width * image.height > max_pixels:
            check_pixels(*said, name, max_pixels)
        try:
            deep_colour = _raw_mode(image) in _OTHER_BYTE
            image.load()
            if deep_colour and _highest(image) < _DARK_COLOUR:
                image = _whole_colours(image, data, name, window)
            return to_rgb(image, window=window)
        except Exception as error:  # as above, from the decoders
            raise ValueError(f"image {name} is damaged or of an unknown kind: {error}") from error


def check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raise a ValueError where an image says that it has more than `max_pixels` pixels."""
    if width * height > max_pixels:
        raise ValueError(
            f"image {name} says it has {width}x{height} pixels, more than max_pixels={max_pixels}. "
            "Scale it down, or raise max_pixels if it is meant to be so large (data.max_pixels in training, "
            "--max-pixels of pack)."
        )


class Header(NamedTuple):
    """What an encoded image says of itself: its size as it is stored, and whether it has more than 8 bits a channel."""

    width: int
    height: int
    deep: bool


def read_header(data: bytes) -> Header:
    """Size and depth of an encoded image; no pixel is decoded.

    Raises:
        ValueError: the bytes are not an image of a known format.
    """
    if not is_dicom(data) and (size := plain_size(data, MAX_PIXELS)):
        return Header(*size, deep=False)
    return _read_header(data)


@lru_cache(4)
def _read_header(data: bytes) -> Header:
    if is_dicom(data):
        return Header(*dicom_header(data)[:3])
    with _opened(data, f"of {len(data)} bytes") as image:
        return Header(*image.size, image.mode.startswith(("I", "F")) or _raw_mode(image) in _OTHER_BYTE)


def orientation(data: bytes) -> int:
    """How an encoded image is turned, as EXIF counts it from 1 (upright) to 8; by the very tags that `decode` follows.

    Raises:
        ValueError: the bytes are not an image of a known format, or their tags are damaged.
    """
    name = f"of {len(data)} bytes"
    with _opened(data, name) as image:
        try:
            if image.format == "PNG":  # tags may stand behind its pixels
                image.load()
            said = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception as error:  # of tags that are no TIFF a SyntaxError, of pixels what `decode` is told
            raise ValueError(f"image {name} is damaged, so how it is turned is unknown: {error}") from error
    return said if isinstance(said, int) and 1 <= said <= 8 else 1


def to_rgb(image: Image.Image, *, window: Window | None = None) -> Image.Image:
    """`image` in RGB, turned as its EXIF says, its transparent parts on white.

    Up to 8 bits a channel stay as they are. Of more bits (`I;16`, `I`, `F`) the smallest value becomes black and the
    largest white, whatever the range of the file: 12 bits in a file of 16 are not dark. A TIFF whose header says that
    0 is white is turned round. An image of one value has no range: of 16 bits it is a share of them.

    Args:
        image: of any mode.
        window: the values that become black and white, in place of the smallest and the largest.

    Raises:
        ValueError: the image has no pixels, or its values say nothing of black and white (not a number; one value of
            floating point, or outside of 16 bits).
    """
    if not image.width or not image.height:
        raise ValueError(f"image of {image.width}x{image.height} pixels has nothing to look at.")
    inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # upright, it would be copied all the same
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):
        return _grey(image, window, inverted)
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def is_faint(image: Image.Image) -> bool:
    """Whether all but a thousandth of the pixels span less than a tenth of black to white: hardly anything is seen."""
    counts = np.cumsum(image.convert("L").histogram())
    low, high = np.searchsorted(counts, [0.0005 * counts[-1], 0.9995 * counts[-1]])
    return bool(high - low < FAINT * 255)


def _opened(data: bytes | Path, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check of the size is the stricter one
            return Image.open(data if isinstance(data, Path) else BytesIO(data), formats=FORMATS)
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's plugins raise anything from struct.error to KeyError on damaged headers
        if is_nifti(data):
            raise ValueError(
                f"image {name} is NIfTI, a volume that does not say which slice is shown, nor what is black. Write the "
                "slices that are asked about as PNG (docs/hospital.md has the lines), or give the DICOM files."
            ) from error
        why = "it is none of them, or damaged" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"image {name} cannot be opened as {', '.join(FORMATS)} or DICOM: {why}.") from error


def is_nifti(data: bytes | Path) -> bool:
    """Whether a file, or its bytes, are NIfTI of either version, compressed or not."""
    with BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
        head = file.read(2**16)
    if head.startswith(b"\x1f\x8b"):
        with suppress(ZlibError):
            head = decompressobj(31).decompress(head, 352)
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def _bands(image: Image.Image) -> Iterator[tuple[int, int]]:
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


def _on_white(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", image.size)
    for top, bottom in _bands(image):
        layer = image.crop((0, top, image.width, bottom)).convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        page.paste(Image.alpha_composite(paper, layer).convert("RGB"), (0, top))
    return page


def _grey(image: Image.Image, window: Window | None, inverted: bool) -> Image.Image:
    # Pillow's own conversion to 8 bits clips at 255, which makes a 16-bit X-ray white.
    values = np.asarray(image)
    clear = image.info.get("transparency")  # the one value that stands for no paint
    shown = values if clear is None or (values == clear).all() else values[values != clear]
    low, high = window or _range(shown, image.mode)
    grey = np.empty(values.shape, np.uint8)
    for top, bottom in _bands(image):
        grey[top:bottom] = scaled(values[top:bottom], low, high)
    if inverted:
        np.subtract(255, grey, out=grey)
    if clear is not None:
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _range(values: np.ndarray, mode: str) -> Window:
    low, high = values.min(), values.max()
    if low < high and np.isfinite([low, high]).all():
        return float(low), float(high)
    if low == high and mode != "F" and low >= 0 and high <= 0xFFFF:
        return 0, 0xFFFF
    raise ValueError(
        f"image of mode {mode} has values from {low} to {high}; which of them is white is unknown. "
        "Save it with 8 or 16 bits a channel, or give a window."
    )


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in an opened file, in Pillow's words."""
    args = image.tile[0][3] if getattr(image, "tile", None) else ""  # pyright: ignore[reportAttributeAccessIssue]
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _highest(image: Image.Image) -> int:
    """The largest value of a colour."""
    return max(high for _, high in image.getextrema()[:3])  # pyright: ignore[reportGeneralTypeIssues]


def _whole_colours(upper: Image.Image, data: bytes | Path, name: str, window: Window | None) -> Image.Image:
    """16 bits a colour, of which Pillow keeps the upper 8 only: read once more for the lower ones, and scaled."""
    with _opened(data, name) as lower:
        lower.tile = [  # pyright: ignore[reportAttributeAccessIssue] - of image files, which Pillow types as images
            tile._replace(args=_with_mode(tile.args, _OTHER_BYTE[_raw_mode(lower)]))
            for tile in lower.tile  # pyright: ignore[reportAttributeAccessIssue]
        ]
        lower.load()
        values = np.asarray(upper).astype(np.uint16) * 256 + np.asarray(lower)
    colours, alpha = values[..., :3], np.asarray(upper)[..., 3:]
    low, high = window or (int(colours.min()), int(colours.max()))
    if low == high or "transparency" in upper.info:
        return upper
    whole = Image.fromarray(np.concatenate([scaled(colours, low, high), alpha], axis=-1))
    whole.info = {key: value for key, value in upper.info.items() if key == "exif"}
    return whole


def _with_mode(args: object, mode: str) -> object:
    return (mode, *args[1:]) if isinstance(args, tuple) else mode
