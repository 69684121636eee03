"""Ask: an answer on standard output, and a picture on disk."""

from __future__ import annotations

import pytest
from PIL import Image

from dragonfly_lit.app.ask import main, question_of
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.spec.tokens import IMAGE


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


def test_images_are_asked_about_where_they_stand(folder, capsys, monkeypatch):
    placing = DragonflyProcessor.from_pretrained(folder / "model", images="in_place")
    placing.save_pretrained(folder / "model")
    Image.new("RGB", (48, 64), "red").save(folder / "red.png")
    seen, real = [], DragonflyProcessor.__call__

    def call(self, **given):
        seen.append(given["text"][0].replace(IMAGE, "[image]"))
        return real(self, **given)

    monkeypatch.setattr(DragonflyProcessor, "__call__", call)
    images = ["--image", str(folder / "green.png"), "--image", str(folder / "red.png")]
    ask = ["--model", str(folder / "model"), *images, "--device", "cpu", "--max-new-tokens", "2"]
    assert main([*ask, "First <image>, second <image>: what differs?"]) == 0
    assert main([*ask, "What differs?"]) == 0
    assert [
        text.split("\n\n")[1].removesuffix("<|eot_id|><|start_header_id|>assistant<|end_header_id|>") for text in seen
    ] == [
        "First [image], second [image]: what differs?",
        "[image][image]What differs?",
    ]
    with pytest.raises(ValueError, match="the question has 1 <image>, the place of an image, and there are 2 images"):
        main([*ask, "What is <image>?"])
    assert question_of("What is <image>?", 2, in_place=False).text == "What is <image>?"
