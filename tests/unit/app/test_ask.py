"""Ask: an answer on standard output, and a picture on disk."""

from __future__ import annotations

import fcntl
import io
import json

import pytest
from PIL import Image

from dragonfly_lit.app import ask_batch
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
    said = capsys.readouterr()
    assert "where the model looked" in said.out
    assert not said.err


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


# A conversation


def test_a_conversation_is_seen_whole(folder, capsys, monkeypatch):
    seen, real = [], DragonflyProcessor.__call__

    def call(self, **given):
        seen.append((given["text"][0], len(given["images"][0] or [])))
        return real(self, **given)

    monkeypatch.setattr(DragonflyProcessor, "__call__", call)
    lines = [
        "And now?",
        f"/image {folder / 'green.png'}",
        "/image nowhere.png",
        "",
        "/what",
        "Which <|eot_id|>?",
        "Both?",
        "/new",
        "Alone?",
        "/quit",
        "Never?",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    options = ["--model", str(folder / "model"), "--device", "cpu", "--max-new-tokens", "2"]
    assert main([*options, "--chat", "--image", str(folder / "green.png"), "What is it?"]) == 0
    questions = [text.count("<|start_header_id|>user<|end_header_id|>") for text, _ in seen]
    assert questions == [1, 2, 3, 1]
    assert [images for _, images in seen] == [1, 1, 2, 0]
    assert all(words in seen[2][0] for words in ("What is it?", "And now?", "Both?"))
    assert "Never?" not in "".join(text for text, _ in seen)
    said = [line for line in capsys.readouterr().err.splitlines() if "/new begins anew" in line]
    assert len(said) == 3
    assert "nowhere.png" in said[0]
    assert said[1].startswith("/what is not known")
    assert "<|eot_id|>" in said[2]


# A folder


@pytest.fixture
def photos(folder):
    (folder / "photos" / "more").mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (40 + 9 * number, 48), (50 * number, 90, 120)).save(folder / f"photos/{number}.png")
    Image.new("RGB", (40, 48), "red").save(folder / "photos" / "more" / "r\u00e9d.JPG", "JPEG")
    (folder / "photos" / "notes.txt").write_text("no image")
    return folder / "photos"


def batch(folder, *more: str, question: str = "What is it?") -> int:
    options = ["--model", str(folder / "model"), "--device", "cpu", "--max-new-tokens", "3"]
    return main([*options, "--batch", str(folder / "photos"), "--out", str(folder / "answers.jsonl"), *more, question])


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_image_of_a_folder_is_answered_once_across_kills(folder, photos, capsys, monkeypatch):
    monkeypatch.setattr(ask_batch, "CHUNK", 2)
    assert batch(folder) == 0
    whole = rows_of(folder)
    assert [row["image"] for row in whole] == ["0.png", "1.png", "2.png", "3.png", "4.png", "more/r\u00e9d.JPG"]
    text = (folder / "answers.jsonl").read_bytes()
    for cut in (0, text.index(b"\n") + 1, len(text) // 2, len(text) - 1, len(text)):
        (folder / "answers.jsonl").write_bytes(text[:cut])
        assert batch(folder) == 0
        assert rows_of(folder) == whole
    assert "6 of 6 images are answered" in capsys.readouterr().out
    assert batch(folder, question="Why?") == 0  # another question has rows of its own
    assert [row["question"] for row in rows_of(folder)] == ["What is it?"] * 6 + ["Why?"] * 6


def test_a_batch_answers_as_one_image_would(folder, photos, capsys):
    assert batch(folder) == 0
    capsys.readouterr()
    for row in rows_of(folder)[:2]:
        options = ["--model", str(folder / "model"), "--device", "cpu", "--max-new-tokens", "3"]
        main([*options, "--image", str(photos / row["image"]), "What is it?"])
        assert capsys.readouterr().out.strip() == row["answer"]


def test_a_damaged_image_has_an_error_and_is_tried_again(folder, photos, capsys):
    good = (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(good[:40])
    assert batch(folder) == 1
    (failed,) = [row for row in rows_of(folder) if "error" in row]
    assert failed["image"] == "2.png"
    assert "2.png" in failed["error"]
    assert "1 could not be read" in capsys.readouterr().err
    (photos / "2.png").write_bytes(good)
    assert batch(folder) == 0
    assert rows_of(folder)[-1]["image"] == "2.png"
    assert len(rows_of(folder)) == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "photos", "Why?"], r"--batch FOLDER and --out FILE\.jsonl go together"),
        (["--batch", "photos", "--out", "a.jsonl", "--chat", "Why?"], r"Leave --chat out"),
        (["--batch", "photos", "--out", "a.jsonl", "--image", "a.png", "Why?"], r"Leave --image out"),
        (["--batch", "nowhere", "--out", "a.jsonl", "Why?"], r"--batch=nowhere is not a folder"),
        (["--image", "green.png"], r"there is no question"),
        (["--image", "green.png", " "], r"there is no question"),
        (["--image", "green.png", "--show-zoom", "zoom", "Why?"], r"--show-zoom zoom does not name a picture"),
        (["--image", "green.png", "--show-zoom", "a/zoom.png", "Why?"], r"a/zoom\.png: there is no folder a\. Make it"),
        (["--device", "gpu", "Why?"], r"--device=gpu: torch cannot use it here \(.*cuda.*gpu\)\. Use --device=cpu"),
        (["--device", "cuda:99", "Why?"], r"--device=cuda:99: torch .* here.*\. Use --device=cpu"),
    ],
)
def test_options_that_do_not_belong_together_are_named(folder, photos, monkeypatch, options, said):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=said):
        main(["--model", "model", "--device", "cpu", *options])


def test_a_file_of_answers_is_whole_and_nobody_elses(folder, photos):
    out = folder / "answers.jsonl"
    for damage in ("{\n", "[1]\n"):
        out.write_text(damage)
        with pytest.raises(ValueError, match=r"answers\.jsonl: line 1 is not a row of JSON"):
            batch(folder)
    out.write_text("")
    with out.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is written by another process"):
            batch(folder)
