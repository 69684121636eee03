"""An image in whatever form a program has it, as RGB: files, bytes, arrays, tensors, base64, `data:` URLs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
from PIL.Image import Image, fromarray

from dragonfly_lit.io.data_url import decode_data_url, is_data_url
from dragonfly_lit.processing.images import decode, to_rgb

ImageInput = Image | np.ndarray | torch.Tensor | bytes | str | Path | Mapping[str, Any]
"""An image, an array or tensor of one, or the bytes, the path, the base64 or the `data:` URL of an encoded one.

A mapping has the `bytes` or the `path`, as the datasets library writes it.
"""

CHANNELS = (1, 3, 4)
SHORTEST_BASE64 = 64
"""A shorter text is a path: no encoded image is so small."""
LARGEST_DOWNLOAD = 64 * 2**20
_SECONDS = 30


def is_image(value: object) -> bool:
    """Whether a value is one image, and not a list of them or an array of several."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.ndim < 4
    return isinstance(value, Image | bytes | str | Path | Mapping)


def flat(images: Any) -> list[Any]:
    """The images of a nested list, of an array of several, or of one, in their order; None gives none."""
    if images is None:
        return []
    if is_image(images):
        return [images]
    if not isinstance(images, Sequence | np.ndarray | torch.Tensor):
        raise ValueError(
            f"an image is a {type(images).__name__}. Give a PIL image, an array, a tensor, or the path, the bytes, the "
            "base64 or the data: URL of a file."
        )
    return [image for part in images for image in flat(part)]


def open_image(image: ImageInput, *, fetch: bool = False) -> Image:
    """`image` in RGB, by the rules of `images.to_rgb`.

    Args:
        image: in any of the forms of ImageInput.
        fetch: whether an http URL is fetched; otherwise nothing ever comes over the network.

    Raises:
        ValueError: it is not an image, is damaged, or lies where nothing is fetched from.
    """
    if isinstance(image, Image):
        return to_rgb(image)
    if isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
        return _of_array((tensor.float() if tensor.is_floating_point() else tensor).numpy(), first=True)
    if isinstance(image, np.ndarray):
        return _of_array(image, first=False)
    if isinstance(image, Mapping):
        image = _of_mapping(image)
    return decode(_encoded(image, fetch) if isinstance(image, str) else image)


def _of_mapping(image: Mapping[str, Any]) -> bytes | str:
    found = image.get("bytes") or image.get("path")
    if not isinstance(found, bytes | str) or not found:
        raise ValueError(f"an image with the keys {', '.join(map(str, image))} has neither bytes nor a path.")
    return found


def _encoded(image: str, fetch: bool) -> bytes | Path:
    """The bytes or the file that a text means."""
    if is_data_url(image):
        try:
            return decode_data_url(image)
        except ValueError as error:
            raise ValueError(f"image {image!r:.60} is {error}") from error
    if "://" in image[:16]:
        if fetch and image.lower().startswith(("http://", "https://")):
            return _fetched(image)
        raise ValueError(
            f"image {image!r:.80} is a URL, and nothing is fetched unasked: give fetch=True to fetch http URLs, or the "
            "file, its bytes or a PIL image."
        )
    if len(image) >= SHORTEST_BASE64 and not _is_file(image):
        try:
            return base64.b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError):
            pass  # a path that does not exist, and is named as one
    return Path(image)


def _fetched(url: str) -> bytes:
    try:
        with urlopen(url, timeout=_SECONDS) as answer:
            data = answer.read(LARGEST_DOWNLOAD + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"image {url!r:.80} was not fetched: {error}.") from error
    if len(data) > LARGEST_DOWNLOAD:
        raise ValueError(f"image {url!r:.80} is larger than {LARGEST_DOWNLOAD // 2**20} MB. Download it yourself.")
    return data


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long for a name, or with a null byte
        return False


def _of_array(array: np.ndarray, *, first: bool) -> Image:
    """The image of an array (height, width), with its channels first or last; `first` where both would do."""
    if array.ndim == 3:
        at_front, at_end = array.shape[0] in CHANNELS, array.shape[2] in CHANNELS
        if at_front and (first or not at_end):
            array = np.moveaxis(array, 0, 2)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS) or not array.size:
        raise ValueError(
            f"an array of shape {array.shape} is not an image. Give (height, width), or 1, 3 or 4 channels before or "
            "after them."
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint16 and array.ndim == 2:
        return to_rgb(fromarray(array))
    return to_rgb(fromarray(np.ascontiguousarray(_bytes_of(array))))


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """Values as 0..255: whole numbers are that already, fractions are 0..1."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"an array of {array.dtype} is not an image. Give whole numbers in 0..255 or fractions in 0..1."
        )
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(array * 255).astype(np.uint8)
    if not (low >= 0 and high <= 255) or (array.dtype.kind == "f" and (array != np.rint(array)).any()):
        raise ValueError(
            f"an array of {array.dtype} has values from {low} to {high}: an image has whole numbers in 0..255 or "
            "fractions in 0..1. Undo its normalisation first."
        )
    return array.astype(np.uint8)
