"""Ask: an answer on standard output, and a picture on disk."""

from __future__ import annotations

import pytest
from PIL import Image

from dragonfly_lit.app.ask import main
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor


@pytest.fixture
def folder(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    DragonflyProcessor(DragonflyImageProcessor.of(model.layout), tiny_tokenizer()).save_pretrained(tmp_path / "model")
    Image.new("RGB", (64, 48), "green").save(tmp_path / "green.png")
    return tmp_path


def test_ask_answers_and_draws_where_it_looked(folder, capsys):
    picture = folder / "zoom.png"
    options = ["--device", "cpu", "--max-new-tokens", "4", "--show-zoom", str(picture)]
    assert main(["--model", str(folder / "model"), "--image", str(folder / "green.png"), *options, "What is it?"]) == 0
    assert Image.open(picture).width == 960
    assert "where the model looked" in capsys.readouterr().out


def test_a_picture_of_nothing_is_refused(folder):
    with pytest.raises(ValueError, match="Give --image FILE"):
        main(["--model", str(folder / "model"), "--show-zoom", "zoom.png", "What is it?"])
