"""Pictures that are committed are those that their scripts draw, and a level has one colour in all of them."""

import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageColor

from dragonfly_lit.evaluation import zoom_picture
from dragonfly_lit.evaluation.study import plots
from dragonfly_lit.spec.levels import COLOURS

DOCS = Path(__file__).resolve().parents[2] / "docs"
FEW = 0.001
"""Share of pixels that letters may differ in, which another build of a font library draws."""


def test_the_flow_picture_is_what_its_script_draws(tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.syspath_prepend(str(DOCS))
    import draw_flow

    draw_flow.main(tmp_path / "flow.png")
    drawn, committed = (Image.open(path).convert("RGB") for path in (tmp_path / "flow.png", DOCS / "pictures/flow.png"))
    assert drawn.size == committed.size
    different = ImageChops.difference(drawn, committed).convert("L").histogram()
    assert sum(different[1:]) <= FEW * drawn.width * drawn.height
    del sys.modules["draw_flow"]


def test_a_level_has_one_colour():
    assert ImageColor.getrgb(COLOURS["medium"]) == zoom_picture.MEDIUM
    assert ImageColor.getrgb(COLOURS["high"]) == zoom_picture.KEPT
    assert plots.COLOURS[:3] == tuple(COLOURS.values())  # low, low + medium, low + medium + high
    for picture in ("flow.png", "zoom_levels.png"):
        image = Image.open(DOCS / "pictures" / picture).convert("RGB")
        found = {colour for _, colour in image.getcolors(image.width * image.height)}
        assert {ImageColor.getrgb(colour) for colour in COLOURS.values()} <= found, picture
