"""A sequence as a picture of its crops, and as a text whose supervised tokens are marked."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from dragonfly_lit.spec.layout import Grid, Layout
from dragonfly_lit.spec.levels import COLOURS
from dragonfly_lit.spec.records import Crops, Sequence
from dragonfly_lit.spec.tokens import IGNORE, IMAGE, NEWLINE

PANEL_WIDTH = 420
GAP = 3
MARGIN = 16
TITLE_HEIGHT = 26
LINE_END = "\u21b5"
PAPER, INK = "#ffffff", "#333333"

STYLES = {"supervised": "bold black on bright_green", "question": "cyan", "image": "magenta", "other": "dim"}
CSS = """body{font:15px/1.6 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;color:#222}
code{font:14px/1.9 ui-monospace,monospace;white-space:pre-wrap}img{max-width:100%}
.supervised{background:#b6f0b0;font-weight:600}.question{color:#00688b}.image{color:#8b008b}.other{color:#888}
section{border-left:3px solid #ddd;padding-left:1rem;margin:1rem 0}
@media (prefers-color-scheme:dark){body{background:#14171a;color:#e8eaec}img{background:#fff}
.supervised{background:#1d5a2b}.question{color:#5cc0e7}.image{color:#e08ae0}.other{color:#999}section{border-color:#444}}"""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token, or all tokens of the images: `supervised`, `question`, `image` or `other`, on one branch."""

    text: str
    kind: str
    branch: int


def pieces(sequence: Sequence, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The sequence token by token; all tokens of an image run together as a count of them."""
    vocabulary = tokenizer.get_vocab()
    image, newline = vocabulary[IMAGE], vocabulary[NEWLINE]
    found: list[Piece] = []
    slots = crops = 0
    columns = (sequence.input_ids, sequence.labels, sequence.question_mask, sequence.branch_ids)
    for token, label, question, branch in zip(*(column.tolist() for column in columns), strict=True):
        if token in (image, newline):
            slots, crops = slots + 1, crops + (token == newline)
            continue
        if slots:
            found.append(Piece(text=f"[{slots} image tokens, {crops} crops]", kind="image", branch=0))
            slots = crops = 0
        kind = "supervised" if label != IGNORE else "question" if question else "other"
        found.append(Piece(text=str(tokenizer.decode([token])).replace("\n", LINE_END), kind=kind, branch=branch))
    if slots:
        found.append(Piece(text=f"[{slots} image tokens, {crops} crops]", kind="image", branch=0))
    return found


def terminal_text(found: list[Piece]) -> Text:
    """For rich: a line more for each branch, supervised tokens on green."""
    text = Text()
    branch = 0
    for piece in found:
        if piece.branch != branch:
            branch = piece.branch
            text.append(f"\n  branch {branch}: ", style="bold")
        text.append(piece.text, style=STYLES[piece.kind])
    return text


def crops_picture(crops: Crops, layout: Layout) -> Image.Image:
    """The crops of one image by level, side by side, each level in its grid with gaps between the crops."""
    zoom = layout.zoom
    levels = [("low", Grid(1, 1))] * zoom.low + [("medium", crops.grids.medium)] * zoom.medium
    levels += [("high", crops.grids.high)] * zoom.high
    panels, start = [], 0
    for name, grid in levels:
        panels.append(
            (COLOURS[name], _title(name, grid, layout), _panel(crops.pixels[start : start + grid.num_crops], grid))
        )
        start += grid.num_crops
    height = MARGIN + TITLE_HEIGHT + max(panel.height for _, _, panel in panels) + MARGIN
    width = MARGIN + sum(panel.width + MARGIN for _, _, panel in panels)
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    left = MARGIN
    for colour, title, panel in panels:
        draw.rectangle((left, MARGIN + TITLE_HEIGHT - 6, left + panel.width, MARGIN + TITLE_HEIGHT - 4), fill=colour)
        draw.text((left, MARGIN - 4), title, fill=INK, font=ImageFont.load_default(15))
        picture.paste(panel, (left, MARGIN + TITLE_HEIGHT))
        left += panel.width + MARGIN
    return picture


def _title(name: str, grid: Grid, layout: Layout) -> str:
    kept = ""
    if name == "high" and layout.zoom.selects:
        kept = f", {layout.zoom.num_high_kept} of {layout.zoom.num_high} kept"
    return f"{name}: {grid.cols}x{grid.rows} crops of {layout.image_size} px{kept}"


def _panel(pixels, grid: Grid) -> Image.Image:
    side = max(1, (PANEL_WIDTH - GAP * (grid.cols - 1)) // max(grid.cols, grid.rows))
    size = (grid.cols * (side + GAP) - GAP, grid.rows * (side + GAP) - GAP)
    panel = Image.new("RGB", (max(size[0], PANEL_WIDTH // 2), size[1]), PAPER)
    for number, crop in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        row, column = divmod(number, grid.cols)
        grows = side >= crop.shape[0]
        shown = Image.fromarray(crop).resize((side, side), Image.Resampling.NEAREST if grows else Image.Resampling.BOX)
        panel.paste(shown, (column * (side + GAP), row * (side + GAP)))
    return panel


def stacked(pictures: list[Image.Image]) -> Image.Image:
    """Pictures under one another."""
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), PAPER)
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def page(title: str, facts: str, found: list[Piece], picture: Image.Image | None) -> str:
    """One HTML page that needs no other file: the picture, then the tokens, a section a branch."""
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(facts)}</p>"]
    if picture is not None:
        out = BytesIO()
        picture.save(out, "PNG")
        encoded = base64.b64encode(out.getvalue()).decode()
        alt = "The crops of the image, level by level: low, medium and high, each in its grid"
        body.append(f'<img alt="{alt}" src="data:image/png;base64,{encoded}">')
    legend = {"supervised": "supervised", "question": "question", "image": "image", "other": "read, not learnt"}
    body.append("<p>" + " ".join(f'<span class="{kind}">{name}</span>' for kind, name in legend.items()) + "</p>")
    branch = None
    for piece in found:
        if piece.branch != branch:
            body.append(("</code></section>" if branch is not None else "") + "<section><code>")
            branch = piece.branch
        body.append(f'<span class="{piece.kind}">{escape(piece.text)}</span>')
    body.append("</code></section>" if found else "")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{CSS}</style>'
    return f'<!doctype html><html lang="en">{head}{"".join(body)}</html>\n'
