"""A name in the image folder, or encoded bytes, to the bytes that go into a shard."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

from PIL import Image

from dragonfly_lit.io.inside import OutsideError, inside
from dragonfly_lit.io.likely import likely
from dragonfly_lit.processing.dicom import Frames, chosen_frames, dicom_header, is_dicom
from dragonfly_lit.processing.images import MAX_PIXELS, Window, decode, orientation, read_header

from .metadata import stripped
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
        told = " Nothing outside of the folder of --images is read." if isinstance(error, OutsideError) else ""
        raise ValueError(f"image {error}{told}") from error
    if not os.path.isfile(path):
        shown = name if name == name.strip() else repr(name)
        raise ValueError(f"image {shown} is missing: no such file in {folder}.{likely(folder, name)}")
    return path


def read_image(image: str | bytes, folder: Path | None) -> bytes:
    """The encoded image that a row names, or brings.

    Args:
        image: name in `folder`, or the encoded image.
        folder: the image folder.

    Raises:
        ValueError: the image cannot be found.
    """
    return image if isinstance(image, bytes) else find_image(image, folder).read_bytes()


def frames_of(data: bytes, wanted: Frames | None) -> list[int | None]:
    """The frames of an encoded image that become images of their own; None stands for an image that has one.

    Args:
        data: the encoded image.
        wanted: which of a DICOM file of several: `all`, `middle` or a number from 0; None refuses such a file.

    Raises:
        ValueError: the image has several frames and none is chosen.
    """
    return chosen_frames(data, wanted) if is_dicom(data) else [None]


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of an encoded image, in which its boxes are given.

    Raises:
        ValueError: the image cannot be opened, or it is turned when it is shown, so that boxes might be those of either
            view.
    """
    if not is_dicom(data) and orientation(data) != 1:
        raise ValueError(
            "is turned by what its EXIF says, and its boxes do not say whether they are. Save it upright, with boxes "
            "that fit."
        )
    header = read_header(data)
    return header.width, header.height


def load_image(
    data: bytes,
    max_side: int | None,
    *,
    max_pixels: int = MAX_PIXELS,
    window: Window | None = None,
    strip: bool = False,
    frame: int | None = None,
    burned_in: bool = False,
) -> bytes:
    """An encoded image as it is if a shard may hold it, else as PNG; smaller if `max_side` asks for it.

    Args:
        data: the encoded image.
        max_side: longest side in pixels; a larger image is scaled down (JPEG stays JPEG, the rest becomes PNG).
        max_pixels: of what is decoded; a JPEG that `max_side` makes small is decoded small.
        window: black and white of images of more than 8 bits, which are stored with 8.
        strip: whether the image loses what it says besides its pixels and how they are turned.
        frame: which of a DICOM file's, from 0.
        burned_in: whether a DICOM file is taken that says that words are burned into its pixels.

    Raises:
        ValueError: the image cannot be opened, or is too large.
    """
    if not burned_in and is_dicom(data) and dicom_header(data).burned_in:
        raise ValueError(
            "says that words are burned into its pixels (BurnedInAnnotation), which may be a name. Look at it; "
            "--burned-in takes such images."
        )
    extension, header = image_extension(data), read_header(data)
    size = header.width, header.height
    shrinks = max_side is not None and max(size) > max_side
    if extension and not shrinks and not (window and header.deep):
        if size[0] * size[1] > max_pixels:
            raise ValueError(
                f"image says it has {size[0]}x{size[1]} pixels, more than {max_pixels}. Scale it down with --max-side, "
                "or raise --max-pixels here and data.max_pixels in training."
            )
        return stripped(data) if strip else data
    picture = decode(data, max_pixels=max_pixels, max_side=max_side if shrinks else None, window=window, frame=frame)
    if max_side is not None and shrinks:
        width, height = (max(1, round(side * max_side / max(size))) for side in size)
        upright = (picture.width < picture.height) == (width < height)  # else its EXIF has turned it
        picture = picture.resize((width, height) if upright else (height, width), Image.Resampling.LANCZOS)
    out = BytesIO()
    if is_dicom(data) and _is_grey(picture):
        picture = picture.getchannel(0)  # a third of the bytes, and the same RGB when it is read
    if extension == "jpg":
        picture.save(out, "JPEG", quality=JPEG_QUALITY)
    else:
        picture.save(out, "PNG")
    return stripped(out.getvalue()) if strip else out.getvalue()


def _is_grey(picture: Image.Image) -> bool:
    red, green, blue = (channel.tobytes() for channel in picture.split())
    return red == green == blue
