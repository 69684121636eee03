"""Drawing for the probes: photographs as clutter, real handwritten digits and coloured shapes as small details."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0),
    "brown": (165, 42, 42), "teal": (0, 128, 128), "black": (0, 0, 0), "gray": (128, 128, 128),
}  # fmt: skip
"""Named as in easy-VQA."""
SHAPES = ("circle", "rectangle", "triangle")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "rocket", "retina", "grass", "gravel", "moon")
"""Photographs that scikit-image ships in its wheel and that are in the public domain or CC0."""
TILE = (246, 246, 242)


@dataclass(frozen=True, kw_only=True)
class Detail:
    """One thing to find.

    Attributes:
        place: the quarter of the canvas it lies in, "upper left" and so on.
        kind: `digit`, or the name of a shape.
        colour: name of its ink.
        digit: which digit it is, None for a shape.
        writer_sample: row of the digit in scikit-learn's set, None for a shape.
        box: left, top, right, bottom in pixels.
    """

    place: str
    kind: str
    colour: str
    digit: int | None
    writer_sample: int | None
    box: tuple[int, int, int, int]


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 handwritten digits of scikit-learn: 8x8 ink between 0 and 1, and which digit each is."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()  # typed as a tuple, which it is only with return_X_y
    return data.images / 16.0, data.target


@cache
def _photograph(name: str) -> Image.Image:
    from skimage import data

    return Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB")


def background(rng: np.random.Generator, side: int) -> Image.Image:
    """A random square of a random photograph, `side` pixels wide."""
    photograph = _photograph(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
    shortest = min(photograph.size)
    width = int(rng.uniform(0.4, 1.0) * shortest)
    left = int(rng.integers(photograph.width - width + 1))
    top = int(rng.integers(photograph.height - width + 1))
    return photograph.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + width, top + width))


def draw(canvas: Image.Image, detail: Detail) -> None:
    """Put a detail on its light tile at its place; drawn at eight times the size, so that edges are smooth."""
    left, top, right, bottom = detail.box
    size = right - left
    big = 8 * max(size, 4)
    tile = Image.new("RGB", (big, big), TILE)
    ink = Image.new("RGB", (big, big), COLOURS[detail.colour])
    tile.paste(ink, mask=_digit_mask(detail, big) if detail.kind == "digit" else _shape_mask(detail.kind, big))
    canvas.paste(tile.resize((size, bottom - top), Image.Resampling.BOX), (left, top))


def _digit_mask(detail: Detail, side: int) -> Image.Image:
    assert detail.writer_sample is not None
    ink = Image.fromarray((digits()[0][detail.writer_sample] * 255).astype(np.uint8))
    return ink.resize((side, side), Image.Resampling.BICUBIC)


def _shape_mask(shape: str, side: int) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    pen, edge, far = ImageDraw.Draw(mask), side // 16, side - side // 16
    if shape == "circle":
        pen.ellipse((edge, edge, far, far), fill=255)
    elif shape == "rectangle":
        pen.rectangle((edge, side // 5, far, side - side // 5), fill=255)
    else:
        pen.polygon([(side // 2, edge), (edge, far), (far, far)], fill=255)
    return mask
