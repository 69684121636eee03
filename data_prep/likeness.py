"""Whether two pictures show the same: equal pixels, or near hashes of them or of their parts, and a closer look.

The hash is that of `imagehash.phash` (the lowest 8 x 8 frequencies of 32 x 32 greys, each above their median or not);
it is computed here, since all parts of a picture are hashed in one product.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from PIL import Image

MAX_BITS = 16
"""Of 64 that may differ, so that two pictures are looked at more closely."""
ALIKE = 0.9
"""Correlation of colours from which on two pictures show the same."""
FLAT = 3.0
"""Standard deviation of the greys, of 255, below which a picture shows nothing that could be known again."""
WORTH_FITTING = 0.1
"""Correlation below which the edges of a part are not fitted: it is another picture that has the same hash."""
SMALL = 192
"""Longest side, in pixels, of what is kept of a picture."""
SIDES = (1.0, 0.85, 0.7)
"""Widths and heights of the parts that are hashed, of the whole."""
_HASHED, _FREQUENCIES, _COMPARED = 32, 8, 48
SMALLEST = 0.5
"""Width and height of a part, of the whole, below which it is not looked for."""
_STEPS = (0.08, 0.04, 0.02, 0.01)
"""By how much the edges of a part are moved, of the whole, while it is fitted."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a part, of the whole."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def _parts() -> tuple[Box, ...]:
    found = []
    for width, height in product(SIDES, SIDES):
        lefts, tops = ((0.0, (1 - side) / 2, 1 - side) if side < 1 else (0.0,) for side in (width, height))
        found += [(left, top, left + width, top + height) for left, top in product(lefts, tops)]
    return tuple(found)


PARTS = _parts()
"""The whole first, then what a crop may have left of it."""
TURNS = tuple(Image.Transpose)
"""Ways in which a picture is turned by right angles, or mirrored, or both."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is known of a picture.

    Attributes:
        digest: of its pixels.
        small: the same in small.
        hashes: of its `PARTS`.
        shows: which of them show anything.
        turned: hashes of the whole in its other `TURNS`.
    """

    digest: bytes
    small: Image.Image
    hashes: np.ndarray
    shows: np.ndarray
    turned: np.ndarray


def look_at(picture: Image.Image) -> Look:
    """What is known of a picture in RGB."""
    digest = hashlib.sha256(str(picture.size).encode())
    digest.update(picture.tobytes())
    small = picture.copy()
    small.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS, reducing_gap=2.0)
    hashes, shows = hashes_of(small)
    return Look(digest=digest.digest(), small=small, hashes=hashes, shows=shows, turned=_turned(small))


def hashes_of(small: Image.Image, parts: tuple[Box, ...] = PARTS) -> tuple[np.ndarray, np.ndarray]:
    """The hash of each part as 64 bits, and whether it shows anything."""
    grey = small.convert("L")
    greys = np.stack([np.asarray(_part(grey, box, _HASHED), np.float32) for box in parts])
    return _hashes(greys), greys.std((1, 2)) >= FLAT


def _turned(small: Image.Image) -> np.ndarray:
    grey = _part(small.convert("L"), WHOLE, _HASHED)
    return _hashes(np.stack([np.asarray(grey.transpose(turn), np.float32) for turn in TURNS]))


def _hashes(greys: np.ndarray) -> np.ndarray:
    wave = _waves()
    found = (wave @ greys @ wave.T).reshape(len(greys), -1)
    bits = np.packbits(found > np.median(found, axis=1, keepdims=True), axis=1)
    return bits.view(">u8").astype(np.uint64).ravel()


@cache
def _waves() -> np.ndarray:
    """The lowest frequencies of a cosine transform (DCT-II)."""
    places = np.pi * np.arange(_FREQUENCIES)[:, None] * (2 * np.arange(_HASHED)[None] + 1) / (2 * _HASHED)
    return (2 * np.cos(places)).astype(np.float32)


def _part(picture: Image.Image, box: Box, side: int) -> Image.Image:
    (left, top, right, bottom), (width, height) = box, picture.size
    pixels = left * width, top * height, right * width, bottom * height
    return picture.resize((side, side), Image.Resampling.BOX, box=pixels)


def bits_apart(hashes: np.ndarray, one: np.uint64 | np.ndarray) -> np.ndarray:
    """In how many bits each of the hashes differs from another."""
    apart = np.bitwise_xor(hashes, one)
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(apart)
    return np.unpackbits(np.ascontiguousarray(apart)[..., None].view(np.uint8), axis=-1).sum(-1)  # NumPy 1


def alike(whole: Image.Image, other: Image.Image, box: Box = WHOLE) -> float:
    """How alike a picture and a part of another are, at most 1; the edges of the part are fitted.

    Args:
        whole: in small.
        other: in small, of which the part is.
        box: where the part is, roughly.
    """
    if _is_grey(whole) or _is_grey(other):
        whole, other = whole.convert("L"), other.convert("L")
    colours = _colours(whole)
    best = _correlation(colours, _colours(other, box))
    for step in _STEPS if best >= WORTH_FITTING else ():
        improved = True
        while improved:
            improved = False
            for edge, sign in product(range(4), (-step, step)):
                moved = _moved(box, edge, sign)
                if moved[2] - moved[0] < SMALLEST or moved[3] - moved[1] < SMALLEST:
                    continue
                found = _correlation(colours, _colours(other, moved))
                if found > best + 1e-4:
                    best, box, improved = found, moved, True
    return best


def _moved(box: Box, edge: int, by: float) -> Box:
    left, top, right, bottom = (min(1.0, max(0.0, at + by * (n == edge))) for n, at in enumerate(box))
    return left, top, right, bottom


def _is_grey(picture: Image.Image) -> bool:
    """Whether a picture has no colours: then those of its copy are not asked for."""
    values = np.asarray(picture, np.float32)
    return values.ndim == 2 or float(np.ptp(values, axis=2).mean()) < FLAT


def _colours(picture: Image.Image, box: Box = WHOLE) -> np.ndarray:
    return np.asarray(_part(picture, box, _COMPARED), np.float32).ravel()


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size else 0.0
