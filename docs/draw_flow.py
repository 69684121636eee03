"""Draws docs/pictures/flow.png: a photograph through the crops of Dragonfly v1 to the language model's tokens.

python docs/draw_flow.py     needs the extra `study` (the photograph is scikit-image's, CC0)
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.factories import build_components, model_factory
from dragonfly_lit.evaluation.zoom_picture import crop_boxes
from dragonfly_lit.processing.crops import cut
from dragonfly_lit.spec.layout import Grid
from dragonfly_lit.spec.levels import COLOURS
from dragonfly_lit.spec.released import LAYOUTS

OUT = Path(__file__).parent / "pictures" / "flow.png"
PAPER, INK, SOFT = (255, 255, 255), (32, 36, 44), (120, 126, 136)
WIDTH, HEIGHT, PANEL = 1600, 640, 300


def selected_by_tiny(image: Image.Image) -> list[int]:
    """The high crops that `model=tiny` keeps, with the released rule; its crops have 32 pixels."""
    config = compose(["model=tiny", "zoom=select", "zoom.regions=raster"])
    model = model_factory(config, build_components(config))().eval()
    crops = cut(image, model.config.layout)
    grids = torch.tensor([[list(grid) for grid in crops.grids]])
    with torch.no_grad():
        _, ranking = model.encode_images(crops.pixels[None], grids)
    assert ranking is not None
    return ranking.selected[0].tolist()


def panel(image: Image.Image, grid: Grid, kept: list[int] | None, colour: str) -> Image.Image:
    """The image cut into `grid`, with gaps; crops that are not kept are faded."""
    gap = 4
    height = round(PANEL * image.height / image.width)
    small = image.resize((PANEL, height), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (PANEL + gap * (grid.cols + 1), height + gap * (grid.rows + 1)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (left, top, right, bottom) in enumerate(crop_boxes(grid, small.size)):
        tile = small.crop((left, top, right, bottom))
        x, y = left + gap * (index % grid.cols + 1), top + gap * (index // grid.cols + 1)
        if kept is not None and index not in kept:
            tile = Image.blend(tile, Image.new("RGB", tile.size, PAPER), 0.75)
        sheet.paste(tile, (x, y))
        if kept is None or index in kept:
            draw.rectangle((x - 2, y - 2, x + tile.width + 1, y + tile.height + 1), outline=colour, width=2)
    return sheet


def main(out: Path = OUT) -> None:
    """Draw and save.

    Args:
        out: the file.
    """
    image = Image.fromarray(data.coffee())
    layout = LAYOUTS["v1"]
    grids, kept = layout.grids(*image.size), selected_by_tiny(image)
    page = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(page)
    title, text = (ImageFont.load_default(size=size) for size in (30, 25))
    levels = {"low": (Grid(1, 1), None), "medium": (grids.medium, None), "high": (grids.high, kept)}
    slots = {"low": 1, "medium": layout.zoom.num_medium, "high": layout.zoom.num_high_kept}
    said = {
        "low": "the whole image, 1 crop",
        "medium": f"{grids.medium.num_crops} crops",
        "high": f"{grids.high.num_crops} crops, {len(kept)} kept",
    }
    draw.text((30, 12), f"an image, {image.width} x {image.height}", fill=INK, font=title)
    page.paste(image.resize((PANEL, round(PANEL * image.height / image.width)), Image.Resampling.LANCZOS), (30, 90))
    for number, (name, (grid, chosen)) in enumerate(levels.items()):
        x = 420 + number * 400
        draw.text((x, 12), name, fill=COLOURS[name], font=title)
        draw.text((x, 50), said[name], fill=SOFT, font=text)
        page.paste(panel(image, grid, chosen, COLOURS[name]), (x - 4, 88))
        draw.text((x - 46, 175), ">" if number == 0 else "+", fill=SOFT, font=title)
    per_crop = layout.features_per_crop + 1
    total, x, top = layout.num_tokens, 30, 440
    draw.text((30, 380), f"{total} image tokens: {per_crop} a crop, its features and a newline", fill=INK, font=title)
    unit = (WIDTH - 60 - 320) / (total // per_crop)
    for name, count in slots.items():
        for _ in range(count):
            draw.rectangle((round(x), top, round(x + unit) - 4, top + 56), fill=COLOURS[name])
            x += unit
        left = round(x - count * unit)
        draw.text((left, top + 62), f"{name}\n{count * per_crop}", fill=COLOURS[name], font=text)
    draw.rectangle((round(x) + 4, top, WIDTH - 30, top + 56), outline=SOFT, width=2)
    draw.text((round(x) + 18, top + 13), "question", fill=INK, font=text)
    draw.text((WIDTH - 190, top + 13), "answer", fill=INK, font=text)
    draw.text((round(x) + 4, top + 62), "text tokens", fill=SOFT, font=text)
    note = (
        "As released: six high crops a medium one, in reading order; the three most like it are kept. "
        "Here model=tiny chooses."
    )
    draw.text((30, 590), note, fill=SOFT, font=text)
    out.parent.mkdir(exist_ok=True)
    page.save(out, optimize=True)
    print(f"{out}: kept {kept}")


if __name__ == "__main__":
    main()
