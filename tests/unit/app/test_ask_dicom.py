"""Ask about DICOM files: which frames, and what is black and white."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from dragonfly_lit.app import ask_chat
from dragonfly_lit.app.ask import main, opened_at
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from tests.unit.processing.dicom_files import dataset, file_of


@pytest.fixture
def folder(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    DragonflyProcessor(DragonflyImageProcessor.of(model.layout), tiny_tokenizer()).save_pretrained(tmp_path / "model")
    (tmp_path / "scans").mkdir()
    frames = np.arange(3, dtype=np.uint8).repeat(40 * 48).reshape(3, 40, 48) * 100
    (tmp_path / "scans" / "cine.dcm").write_bytes(file_of(dataset(frames)))
    slope = np.linspace(0, 4000, 40 * 48).astype(np.uint16).reshape(40, 48)
    (tmp_path / "scans" / "ct.dicom").write_bytes(file_of(dataset(slope)))
    Image.new("RGB", (64, 48), "green").save(tmp_path / "scans" / "green.png")
    return tmp_path


def values(images: list[Image.Image]) -> list[int]:
    """The one value of each image."""
    return [np.unique(np.asarray(image)).item() for image in images]


def ask(folder, *more: str) -> int:
    return main(["--model", str(folder / "model"), "--device", "cpu", "--max-new-tokens", "2", *more, "What is it?"])


def batch(folder, *more: str) -> tuple[int, list[dict]]:
    out = folder / "answers.jsonl"
    status = ask(folder, "--batch", str(folder / "scans"), "--out", str(out), *more)
    return status, [json.loads(line) for line in out.read_text().splitlines()]


def test_frames_are_chosen_as_pack_chooses_them(folder):
    cine = folder / "scans" / "cine.dcm"
    assert values(opened_at(cine, frames="all", window=None)) == [0, 100, 200]
    assert values(opened_at(cine, frames="middle", window=None)) == [100]
    assert values(opened_at(cine, frames=2, window=None)) == [200]
    with pytest.raises(ValueError, match=r"cine\.dcm has 3 frames\. Choose: all, middle or a number from 0 \(--frames"):
        opened_at(cine, frames=None, window=None)
    with pytest.raises(ValueError, match=r"cine\.dcm has no frame 3: it has 3, counted from 0"):
        opened_at(cine, frames=3, window=None)
    assert opened_at(folder / "scans" / "green.png", frames=2, window=(0, 9))[0].getpixel((0, 0)) == (0, 128, 0)


def test_a_window_says_what_is_black_and_white(folder):
    (image,) = opened_at(folder / "scans" / "ct.dicom", frames=None, window=(1000, 3000))
    seen = np.asarray(image)[..., 0].reshape(-1)
    stored = np.linspace(0, 4000, 40 * 48).astype(np.uint16)
    assert (seen[stored <= 1000] == 0).all()
    assert (seen[stored >= 3000] == 255).all()
    assert 0 < seen[len(seen) // 2] < 255


def test_every_chosen_frame_is_an_image_of_the_question(folder, monkeypatch, capsys):
    seen, real = [], DragonflyProcessor.__call__

    def call(self, **given):
        seen.append(values(given["images"][0]))
        return real(self, **given)

    monkeypatch.setattr(DragonflyProcessor, "__call__", call)
    cine = str(folder / "scans" / "cine.dcm")
    assert ask(folder, "--image", cine, "--frames", "all") == 0
    assert ask(folder, "--image", cine, "--frames", "1") == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/image {cine}\nAnd now?\n"))
    monkeypatch.setattr(ask_chat, "HELP", "")
    assert ask(folder, "--chat", "--image", cine, "--frames", "middle") == 0
    assert seen == [[0, 100, 200], [100], [100], [100, 100]]


def test_a_folder_of_scans_is_asked_about_and_what_was_seen_is_in_its_rows(folder, capsys):
    status, rows = batch(folder)
    assert status == 1
    assert [row["image"] for row in rows] == ["cine.dcm", "ct.dicom", "green.png"]
    assert "has 3 frames. Choose: all, middle or a number from 0" in rows[0]["error"]
    assert all("answer" in row and "frames" not in row for row in rows[1:])
    status, rows = batch(folder, "--frames", "all", "--window", "1000", "3000")
    assert status == 0  # others were looked at in another way: all are asked again
    assert [(row["image"], row["frames"], row["window"]) for row in rows[3:]] == [
        (name, "all", [1000, 3000]) for name in ("cine.dcm", "ct.dicom", "green.png")
    ]
    assert batch(folder, "--frames", "all", "--window", "1000", "3000") == (0, rows)
    assert len(batch(folder)[1]) == len(rows) + 1  # of the first question one is open


def test_more_frames_than_the_model_holds_are_one_files_error(folder, capsys):
    many = np.zeros((300, 8, 8), np.uint8)
    (folder / "scans" / "many.dcm").write_bytes(file_of(dataset(many)))
    status, rows = batch(folder, "--frames", "all")
    assert status == 1
    assert "the model's context is" in rows[-1]["error"]
    assert [row["image"] for row in rows if "answer" in row] == ["cine.dcm", "ct.dicom", "green.png"]


def test_what_cannot_be_chosen_is_refused(folder, capsys):
    cine = str(folder / "scans" / "cine.dcm")
    with pytest.raises(SystemExit):
        ask(folder, "--image", cine, "--frames", "two")
    assert "'two' is not all, middle or a number from 0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--window 5 5: give two numbers, black below white"):
        ask(folder, "--image", cine, "--frames", "1", "--window", "5", "5")
