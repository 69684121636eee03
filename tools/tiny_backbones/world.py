"""Drawn scenes of one coloured shape, and 32 px crops of them at any zoom with what is true of every patch.

Half the scenes are like easy-VQA's (a shape on a light ground) and wider: more colours and shapes, rotations, jittered
colours, darker grounds, soft and hard edges. In the other half the shape lies on a piece of light paper amid clutter,
as small as a few pixels, and beside it pen strokes on paper of their own. No image of
easy-VQA and no photograph is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from tools.tiny_backbones.clutter import draw_clutter, draw_strokes
from tools.tiny_backbones.texts import COLOURS, SHAPES

RGB = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0), "gray": (128, 128, 128),
    "teal": (0, 128, 128), "brown": (165, 42, 42), "yellow": (255, 255, 0), "orange": (255, 150, 0),
    "purple": (128, 0, 160), "pink": (255, 130, 190),
}  # fmt: skip
COLOUR_JITTER = 14
CANVAS, CLUTTERED_CANVAS = (48, 96), (64, 192)
"""Sides of a drawn scene, in pixels."""
SHARE_CLUTTERED = 0.5
LARGEST_ZOOM = 5.0
SMALLEST_WINDOW = 26
"""In pixels of a cluttered scene: what lies there has no more detail to see."""
SMALLEST_PATCH_COVER = 0.02
"""A patch that the shape covers less than this counts as ground."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One drawn image, the mask of its shape, and what was drawn."""

    image: Image.Image
    mask: Image.Image
    colour: int
    shape: int
    box: tuple[float, float, float, float]
    largest_zoom: float


@dataclass(frozen=True, kw_only=True)
class Views:
    """Crops and what is true of them; -1 stands for ground alone.

    Attributes:
        pixels: uint8 [crops, 3, side, side].
        cover: share of each patch that the shape covers, [crops, patches].
        colour: index into COLOURS where a patch shows the shape, [crops, patches].
        shape: index into SHAPES likewise, [crops, patches].
    """

    pixels: np.ndarray
    cover: np.ndarray
    colour: np.ndarray
    shape: np.ndarray


def _outline(shape: str, rng: np.random.Generator) -> np.ndarray:
    """Corners of a shape within the unit circle's square, [corners, 2]; a circle has 40 of them."""
    if shape == "triangle":
        return np.array([(rng.uniform(-0.3, 0.3) * (rng.random() < 0.3), -1.0), (1.0, 1.0), (-1.0, 1.0)])
    if shape == "rectangle":
        short = rng.uniform(0.25, 1.0)
        w, h = (1.0, short) if rng.random() < 0.5 else (short, 1.0)
        return np.array([(-w, -h), (w, -h), (w, h), (-w, h)])
    if shape == "star":
        inner = rng.uniform(0.35, 0.5)
        return np.array([(r * sin(k * pi / 5), -r * cos(k * pi / 5)) for k in range(10) for r in [(1.0, inner)[k % 2]]])
    if shape == "cross":
        w = rng.uniform(0.22, 0.36)
        quarter = [(w, -1.0), (w, -w), (1.0, -w)]
        turn = lambda p, k: [p, (-p[1], p[0]), (-p[0], -p[1]), (p[1], -p[0])][k]  # noqa: E731
        return np.array([turn(p, k) for k in range(4) for p in quarter])
    angles = np.arange(40) * (2 * pi / 40)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def draw_scene(rng: np.random.Generator) -> Scene:
    """One shape of a random kind, colour, size, place and turn; on plain ground it may leave the canvas a little."""
    cluttered = bool(rng.random() < SHARE_CLUTTERED)
    colour, shape = int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES)))
    smallest, largest = CLUTTERED_CANVAS if cluttered else CANVAS
    side = int(rng.integers(smallest, largest + 1))
    radius = (
        max(1.0, side * float(np.exp(rng.uniform(np.log(0.01), np.log(0.25)))))
        if cluttered
        else (side * rng.uniform(0.065, 0.29))
    )
    margin = min(radius * (1.6 if cluttered else 0.8), side / 2)
    centre = rng.uniform(margin, side - margin, size=2)
    turn = rng.normal(0, 0.12) * (rng.random() < 0.4) if rng.random() < 0.85 else rng.uniform(0, 2 * pi)
    rotation = np.array([(cos(turn), sin(turn)), (-sin(turn), cos(turn))])
    corners = (_outline(SHAPES[shape], rng) * radius * (1.0, rng.uniform(0.85, 1.15))) @ rotation + centre
    jitter = rng.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, size=3) * (rng.random() < 0.6)
    fill = tuple(int(v) for v in np.clip(np.array(RGB[COLOURS[colour]]) + jitter, 0, 255))
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    image = _amid_clutter(rng, side, (left, top, right, bottom)) if cluttered else _plain(rng, side)
    # A shape of few pixels has soft edges, or it would be none.
    soft = 4 if cluttered else 3 if rng.random() < 0.3 else 1
    mask = Image.new("L", (side * soft, side * soft))
    ImageDraw.Draw(mask).polygon([(x * soft, y * soft) for x, y in corners.tolist()], fill=255)
    if soft > 1:
        mask = mask.resize((side, side), Image.Resampling.BOX)
    image.paste(fill, mask=mask)
    return Scene(
        image=image,
        mask=mask,
        colour=colour,
        shape=shape,
        box=(left, top, right, bottom),
        largest_zoom=max(1.0, side / SMALLEST_WINDOW) if cluttered else LARGEST_ZOOM,
    )


def _paper(rng: np.random.Generator) -> tuple[int, int, int]:
    low = 228 if rng.random() < 0.8 else 200
    red, green, blue = (int(v) for v in rng.integers(low, 256, size=3))
    return red, green, blue


def _plain(rng: np.random.Generator, side: int) -> Image.Image:
    return Image.new("RGB", (side, side), _paper(rng))


def _amid_clutter(rng: np.random.Generator, side: int, box: tuple[float, float, float, float]) -> Image.Image:
    """Clutter, pen strokes on pieces of paper, and the piece of paper that what fills `box` will be drawn on."""
    image = draw_clutter(rng, side)
    left, top, right, bottom = box
    extent = max(right - left, bottom - top)
    for _ in range(int(rng.integers(4))):
        width = max(2, round(extent * rng.uniform(0.7, 1.4)))
        corner = rng.integers(0, max(1, side - width), size=2).tolist()
        image.paste(draw_strokes(rng, width, _paper(rng)), (corner[0], corner[1]))
    edge = extent * rng.uniform(0.02, 0.3)
    x, y = (left + right) / 2, (top + bottom) / 2
    reach = extent / 2 + edge
    ImageDraw.Draw(image).rectangle((x - reach, y - reach, x + reach, y + reach), fill=_paper(rng))
    return image


def _window(scene: Scene, zoom: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A square part of the scene that is `zoom` times smaller than it, three times of four one that meets the shape."""
    side = scene.image.width
    size = side / zoom
    if rng.random() < 0.75:
        left, top, right, bottom = scene.box
        x, y = rng.uniform(left - 0.7 * size, right - 0.3 * size), rng.uniform(top - 0.7 * size, bottom - 0.3 * size)
    else:
        x, y = rng.uniform(0, side - size, size=2)
    x, y = float(np.clip(x, 0, side - size)), float(np.clip(y, 0, side - size))
    return x, y, min(x + size, side), min(y + size, side)


def draw_views(num_scenes: int, views_per_scene: int, side: int, patch: int, rng: np.random.Generator) -> Views:
    """`num_scenes` new scenes, each seen whole once and at `views_per_scene - 1` random zooms.

    Args:
        num_scenes: how many.
        views_per_scene: crops of each.
        side: of a crop, in pixels.
        patch: side of a patch, in pixels; it divides `side`.
        rng: of all that is random.
    """
    pixels, masks, colours, shapes = [], [], [], []
    for _ in range(num_scenes):
        scene = draw_scene(rng)
        for view in range(views_per_scene):
            zoom = 1.0 if view == 0 else float(np.exp(rng.uniform(0, np.log(scene.largest_zoom))))
            box = _window(scene, zoom, rng)
            pixels.append(np.asarray(scene.image.resize((side, side), Image.Resampling.BICUBIC, box=box)))
            masks.append(np.asarray(scene.mask.resize((side, side), Image.Resampling.BOX, box=box)))
            colours.append(scene.colour)
            shapes.append(scene.shape)
    n = side // patch
    cover = np.stack(masks).reshape(-1, n, patch, n, patch).mean(axis=(2, 4)).reshape(-1, n * n) / 255.0
    shown = cover > SMALLEST_PATCH_COVER
    return Views(
        pixels=np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2)),
        cover=cover.astype(np.float32),
        colour=np.where(shown, np.array(colours)[:, None], -1),
        shape=np.where(shown, np.array(shapes)[:, None], -1),
    )
