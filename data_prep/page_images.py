"""Drawing for the pages: real text in real typefaces, some words in colour, around one printed symbol."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .probe_images import COLOURS

TYPEFACES = {
    "train": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono"),
    "test": ("STIXGeneral", "STIXGeneralBol", "cmr10", "cmss10", "cmtt10"),
}
"""Files of matplotlib's wheel; no family is in both splits."""
SYMBOL_TYPEFACES = {"train": ("DejaVuSans", "DejaVuSansMono"), "test": ("STIXGeneral",)}
"""Those that have all symbols."""
SYMBOLS = {"circle": "\N{BLACK CIRCLE}", "rectangle": "\N{BLACK SQUARE}", "star": "\N{BLACK STAR}"} | {
    "triangle": "\N{BLACK UP-POINTING TRIANGLE}"
}
DOCUMENTS = {
    "train": (
        "breast_cancer", "covtype", "digits", "iris", "kddcup99", "rcv1", "twenty_newsgroups",
    ),
    "test": (
        "california_housing", "diabetes", "lfw", "linnerud", "olivetti_faces", "species_distributions", "wine_data",
    ),
}  # fmt: skip
"""Descriptions of data sets that scikit-learn ships in its wheel; no document is in both splits."""
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9,.;:()-]*")
"""What all typefaces have at the same places; the rest of the markup is left out."""
IN_COLOUR = 0.15
"""Share of the words that are printed in colour, so that a colour does not say where the symbol is."""

Box = tuple[int, int, int, int]
Ink = tuple[int, int, int]


@cache
def words(split: str) -> tuple[str, ...]:
    """All words of a split's documents in reading order."""
    folder = files("sklearn.datasets").joinpath("descr")
    text = " ".join(folder.joinpath(f"{name}.rst").read_text(encoding="utf-8") for name in DOCUMENTS[split])
    return tuple(WORD.findall(text))


@cache
def _typeface(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


@cache
def _width(typeface: str, size: int, word: str) -> float:
    return _typeface(typeface, size).getlength(word)


def draw_page(rng: np.random.Generator, split: str, side: int, box: Box, symbol: str, colour: str) -> Image.Image:
    """A square page full of text, with one symbol in its place.

    Args:
        rng: of typefaces, their size, where the text begins, which words are in colour, margins, paper and ink.
        split: whose typefaces and documents are used.
        side: of the page in pixels.
        box: left, top, right, bottom of the symbol in pixels.
        symbol: one of `SYMBOLS`.
        colour: one of `COLOURS`.
    """
    paper = int(rng.integers(232, 256))
    page = Image.new("RGB", (side, side), (paper,) * 3)
    _set_text(page, rng, split, box)
    _print_symbol(page, box, str(rng.choice(SYMBOL_TYPEFACES[split])), SYMBOLS[symbol], COLOURS[colour])
    return page


def _set_text(page: Image.Image, rng: np.random.Generator, split: str, box: Box) -> None:
    """Lines of words from a random one on, between the margins and around the box."""
    size = round(page.width * rng.uniform(0.016, 0.028))
    typeface, text = str(rng.choice(TYPEFACES[split])), words(split)
    first, ink = int(rng.integers(len(text))), (int(rng.integers(0, 70)),) * 3
    margin = round(page.width * rng.uniform(0.02, 0.07))
    font, pen = _typeface(typeface, size), ImageDraw.Draw(page)
    height, space = sum(font.getmetrics()), _width(typeface, size, "n") * 0.55
    gap = height // 3
    left, top, right, bottom = box[0] - gap, box[1] - gap, box[2] + gap, box[3] + gap
    inks = list(COLOURS.values())
    for line in range(margin, page.height - margin - height, round(height * 1.15)):
        beside, at = line < bottom and line + height > top, float(margin)
        while True:
            word = text[first % len(text)]
            width = _width(typeface, size, word)
            if beside and at < right and at + width > left:
                at = float(right)
            if at + width > page.width - margin:
                break
            fill = inks[int(rng.integers(len(inks)))] if rng.random() < IN_COLOUR else ink
            pen.text((at, line), word, fill=fill, font=font)
            at += width + space
            first += 1


def _print_symbol(page: Image.Image, box: Box, typeface: str, symbol: str, ink: Ink) -> None:
    """The symbol's ink fills the box across or down."""
    width, height = box[2] - box[0], box[3] - box[1]
    font = _typeface(typeface, 4 * max(width, height))
    edges = font.getbbox(symbol)
    large = Image.new("L", (round(edges[2]), round(edges[3])), 0)
    ImageDraw.Draw(large).text((0, 0), symbol, fill=255, font=font)
    large = large.crop(large.getbbox())
    share = min(width / large.width, height / large.height)
    size = max(1, round(large.width * share)), max(1, round(large.height * share))
    mask = large.resize(size, Image.Resampling.BOX)
    page.paste(ink, (box[0] + (width - size[0]) // 2, box[1] + (height - size[1]) // 2), mask=mask)
