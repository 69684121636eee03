"""What else a picture shows: drawn clutter in a photograph's place, and pen strokes that are not shapes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

OCTAVES = (3, 6, 12, 24, 48)
"""Numbers of cells a side of the noises that are added up, coarse to fine."""


def draw_clutter(rng: np.random.Generator, side: int) -> Image.Image:
    """A square of coloured noise at several scales with blobs, lines and specks on it, nothing of it on light paper."""
    total = np.zeros((side, side, 3), dtype=np.float32)
    roughness = rng.uniform(0.3, 1.2)
    for number, cells in enumerate(OCTAVES):
        noise = Image.fromarray(rng.integers(0, 256, size=(cells, cells, 3), dtype=np.uint8))
        layer = np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255 - 0.5
        if rng.random() < 0.6:  # most texture is of one hue
            layer = layer.mean(axis=2, keepdims=True) * rng.uniform(0.5, 1.5, size=3).astype(np.float32)
        total += layer * roughness**number
    contrast = rng.uniform(20, 130)
    tint = rng.uniform(0, 255, size=3) if rng.random() < 0.6 else np.full(3, rng.uniform(0, 255))
    pixels = np.clip(total / max(float(total.std()), 1e-3) * contrast / 2 + tint, 0, 255)
    picture = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(5))):
        _blob(rng, pen, side)
    for _ in range(int(rng.integers(60)) * (rng.random() < 0.4)):
        x, y, radius = *rng.uniform(0, side, size=2), rng.uniform(0.3, 1.5)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_any_colour(rng))
    return picture


def _blob(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: int) -> None:
    colour, (x, y) = _any_colour(rng), rng.uniform(0, side, size=2)
    if rng.random() < 0.5:
        w, h = rng.uniform(0.03, 0.4, size=2) * side
        pen.ellipse((x - w, y - h, x + w, y + h), fill=colour)
    else:
        pen.line([(x, y), tuple(rng.uniform(0, side, size=2))], fill=colour, width=int(rng.integers(1, 9)))


def _any_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(0, 256, size=3))
    return red, green, blue


def draw_strokes(rng: np.random.Generator, side: int, paper: tuple[int, int, int]) -> Image.Image:
    """A square of paper with a few joined, blurred strokes of a black pen, as of handwriting."""
    big = max(side, 16)
    tile = Image.new("RGB", (big, big), paper)
    points = rng.uniform(0.15, 0.85, size=(int(rng.integers(2, 6)), 2)) * big
    pen, width = ImageDraw.Draw(tile), max(1, round(big * rng.uniform(0.1, 0.22)))
    pen.line([tuple(point) for point in points.tolist()], fill=(0, 0, 0), width=width, joint="curve")
    if rng.random() < 0.5:
        left, top = rng.uniform(0.1, 0.5, size=2) * big
        extent = rng.uniform(0.25, 0.45) * big
        start = rng.uniform(0, 360)
        pen.arc((left, top, left + extent, top + extent), start, start + rng.uniform(150, 360), (0, 0, 0), width)
    return tile.filter(ImageFilter.GaussianBlur(big * rng.uniform(0.02, 0.07))).resize((side, side))
