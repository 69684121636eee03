"""A picture of the crops of an image: the grids over it, the score of every high crop, the kept ones bright."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageColor, ImageDraw, ImageEnhance, ImageFont

from dragonfly_lit.spec.layout import Grid, Grids
from dragonfly_lit.spec.levels import COLOURS

MEDIUM, KEPT = (ImageColor.getrgb(COLOURS[level])[:3] for level in ("medium", "high"))
PAPER, INK = (255, 255, 255), (30, 30, 30)
DIMMED = 0.4
Box = tuple[int, int, int, int]


def draw_zoom(
    image: Image.Image,
    grids: Grids,
    scores: Sequence[float] | None = None,
    selected: Sequence[int] | None = None,
    *,
    high: bool = True,
    side: int = 960,
) -> Image.Image:
    """The image with its crops marked: kept high crops bright and outlined, the others dimmed.

    Args:
        image: as it came, not stretched; crops are drawn where they lie on it.
        grids: the medium and the high grid of this image.
        scores: of every high crop, row by row; None writes none.
        selected: indices of the kept high crops; None means that all are kept.
        high: whether there are high crops at all.
        side: longer side of the picture, in pixels.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    bright = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    boxes = crop_boxes(grids.high, size) if high else []
    kept = range(len(boxes)) if selected is None else sorted(selected)
    picture = ImageEnhance.Brightness(bright).enhance(DIMMED) if boxes else bright.copy()
    for index in kept:
        picture.paste(bright.crop(boxes[index]), boxes[index][:2])
    draw = ImageDraw.Draw(picture)
    line = max(1, side // 480)
    for box in boxes:
        draw.rectangle(_inside(box), outline=(200, 200, 200), width=max(1, line // 2))
    for index in kept if selected is not None else ():
        draw.rectangle(_inside(boxes[index]), outline=KEPT, width=2 * line)
    for box in crop_boxes(grids.medium, size):
        draw.rectangle(_inside(box), outline=MEDIUM, width=line)
    if scores is not None:
        _write_scores(draw, boxes, scores, set(kept), side)
    return _with_legend(picture, _legend(grids, len(boxes), selected, scored=scores is not None), side)


def crop_boxes(grid: Grid, size: tuple[int, int]) -> list[Box]:
    """Left, top, right and bottom of every crop of a grid over an image of `size`, row by row."""
    width, height = size
    xs = [round(col * width / grid.cols) for col in range(grid.cols + 1)]
    ys = [round(row * height / grid.rows) for row in range(grid.rows + 1)]
    return [(xs[c], ys[r], xs[c + 1], ys[r + 1]) for r in range(grid.rows) for c in range(grid.cols)]


def _inside(box: Box) -> Box:
    left, top, right, bottom = box
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _write_scores(draw: ImageDraw.ImageDraw, boxes: list[Box], scores: Sequence[float], kept: set[int], side: int):
    font = ImageFont.load_default(size=max(10, side // 56))
    digits = 2 if max(abs(score) for score in scores) < 100 else 0
    for index, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        place = (box[0] + side // 120, box[1] + side // 120)
        text = f"{score:.{digits}f}"
        left, top, right, bottom = draw.textbbox(place, text, font=font)
        draw.rectangle((left - 3, top - 3, right + 3, bottom + 3), fill=KEPT if index in kept else (70, 70, 70))
        draw.text(place, text, font=font, fill=INK if index in kept else PAPER)


def _legend(
    grids: Grids, num_high: int, selected: Sequence[int] | None, *, scored: bool
) -> list[tuple[tuple[int, int, int], str]]:
    medium = [(MEDIUM, f"medium crops, {grids.medium.cols} x {grids.medium.rows}")]
    if not num_high:
        return medium
    grid = f"{grids.high.cols} x {grids.high.rows}"
    if selected is None:
        return [*medium, ((200, 200, 200), f"high crops, {grid}, all kept")]
    return [
        *medium,
        (KEPT, f"{len(selected)} of {num_high} high crops kept, {grid}" + "; the number is the score" * scored),
    ]


def _with_legend(picture: Image.Image, entries: list[tuple[tuple[int, int, int], str]], side: int) -> Image.Image:
    font = ImageFont.load_default(size=max(10, side // 56))
    row = max(16, side // 36)
    # A narrow picture gets room for its words.
    width = max(picture.width, round(2 * row + max(font.getlength(text) for _, text in entries)))
    page = Image.new("RGB", (width, picture.height + row * len(entries) + row // 2), PAPER)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    for i, (colour, text) in enumerate(entries):
        top = picture.height + row // 4 + i * row
        draw.rectangle((row // 4, top + row // 5, row, top + row - row // 5), fill=colour)
        draw.text((row + row // 2, top + row // 8), text, font=font, fill=INK)
    return page
