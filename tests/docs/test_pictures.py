"""Pictures that are committed are those that their scripts draw, and a level has one colour in all of them."""

import hashlib
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageColor

from dragonfly_lit.evaluation import zoom_picture
from dragonfly_lit.evaluation.study import plots
from dragonfly_lit.serving import page
from dragonfly_lit.spec.levels import COLOURS

SEEN = 16
"""Of 256 grey levels: what the eye sees. The page's picture has few colours, chosen anew for every drawing."""
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


def test_the_page_in_the_walk_through_is_the_one_that_is_served():
    committed = Image.open(DOCS / "pictures/page.png")
    assert committed.info["page"] == hashlib.sha256(page.page()).hexdigest(), "draw it: python docs/draw_page.py"


def test_the_picture_of_the_page_is_what_its_script_draws(tmp_path, monkeypatch, open_chromium):
    """Where letters are as wide as where it was drawn."""
    for module in ("skimage", "fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(str(DOCS))
    import draw_page

    monkeypatch.setattr(draw_page, "open_browser", lambda: open_chromium(draw_page.SIZE))
    draw_page.main(tmp_path / "page.png")
    drawn, committed = (Image.open(path) for path in (tmp_path / "page.png", DOCS / "pictures/page.png"))
    del sys.modules["draw_page"]
    if drawn.info["letters"] != committed.info["letters"]:
        pytest.skip("the browser of this machine has other letters than the one that drew the page")
    assert drawn.size == committed.size
    difference = ImageChops.difference(drawn.convert("RGB"), committed.convert("RGB")).convert("L").histogram()
    assert sum(difference[SEEN:]) <= FEW * drawn.width * drawn.height


def test_a_level_has_one_colour():
    assert ImageColor.getrgb(COLOURS["medium"]) == zoom_picture.MEDIUM
    assert ImageColor.getrgb(COLOURS["high"]) == zoom_picture.KEPT
    assert plots.COLOURS[:3] == tuple(COLOURS.values())  # low, low + medium, low + medium + high
    for picture in ("flow.png", "zoom_levels.png"):
        image = Image.open(DOCS / "pictures" / picture).convert("RGB")
        found = {colour for _, colour in image.getcolors(image.width * image.height)}
        assert {ImageColor.getrgb(colour) for colour in COLOURS.values()} <= found, picture
