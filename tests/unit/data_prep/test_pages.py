"""The pages: deterministic, nothing shared by the splits, the symbol where the record says, all scored as written."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
from data_prep import pages, probes
from data_prep.drawn import JITTER, SIZES, TRAIN_SIZES
from data_prep.page_images import COLOURS, DOCUMENTS, SYMBOL_TYPEFACES, SYMBOLS, TYPEFACES, words
from data_prep.pages import EDGE, QUESTIONS, make_pages, page
from dragonfly_lit.evaluation.benchmarks.pages import Pages
from dragonfly_lit.evaluation.question import Question

SIDE = 512


@pytest.fixture(scope="module")
def records():
    return [page("test", number, seed=0, side=SIDE) for number in range(70)]


def test_a_page_is_a_function_of_its_number_and_seed(records):
    assert page("test", 5, seed=0, side=SIDE) == records[5]
    assert page("test", 5, seed=1, side=SIDE) != records[5]
    assert page("train", 5, seed=0, side=SIDE) != records[5]


def test_no_document_and_no_family_of_typefaces_is_in_both_splits():
    assert set(DOCUMENTS["train"]).isdisjoint(DOCUMENTS["test"])
    families = [{name[:4] for name in (*TYPEFACES[split], *SYMBOL_TYPEFACES[split])} for split in ("train", "test")]
    assert families[0].isdisjoint(families[1])
    runs = [{tuple(words(split)[i : i + 12]) for i in range(len(words(split)) - 12)} for split in ("train", "test")]
    assert min(map(len, runs)) > 1000
    assert len(runs[0] & runs[1]) < 0.05 * len(runs[1]), "but for phrases that descriptions have in common"


def test_symbols_have_the_size_that_the_record_says_and_lie_on_the_page(records):
    for record in records:
        assert [turn.text for turn in record.turns[0::2]] == list(QUESTIONS.values())
        assert record.meta["boxes"][0] == record.meta["boxes"][1]
        left, top, right, bottom = record.meta["boxes"][0]
        assert right - left == bottom - top
        assert abs((right - left) / SIDE - record.meta["size"]) <= JITTER * record.meta["size"] + 1 / SIDE
        assert min(left, top) >= EDGE
        assert max(right, bottom) <= SIDE - EDGE
    assert {record.meta["size"] for record in records} == set(SIZES)
    assert {page("train", number, seed=0, side=SIDE).meta["size"] for number in range(13)} == set(TRAIN_SIZES)


def test_symbols_lie_uniformly_over_the_page():
    middles = []
    for number in range(0, 700, 7):  # the smallest, which may lie nearly everywhere
        left, top, right, bottom = page("test", number, seed=0, side=128).meta["boxes"][0]
        middles.append(((left + right) / 256, (top + bottom) / 256))
    quarters = np.histogram2d(*np.transpose(middles), bins=2, range=[[0, 1], [0, 1]])[0]
    assert quarters.sum() == 100
    assert quarters.min() >= 12


def test_the_symbol_has_the_shape_and_the_colour_that_are_asked_for(records):
    cover = {"star": (0.2, 0.5), "triangle": (0.35, 0.6), "circle": (0.65, 0.85), "rectangle": (0.86, 1.0)}
    seen = set()
    for record in records:
        colour, shape = record.turns[1].text, record.turns[3].text
        if record.meta["size"] != max(SIZES):
            continue
        image = np.asarray(Image.open(io.BytesIO(record.images[0])), dtype=float)
        left, top, right, bottom = record.meta["boxes"][0]
        inside = np.abs(image[top:bottom, left:right] - COLOURS[colour]).sum(-1) < 90
        low, high = cover[shape]
        assert low <= inside.mean() <= high, shape
        seen.add(shape)
    assert len(seen) > 2


def test_words_are_printed_in_every_colour_and_none_in_the_symbols_place(records):
    wanted = {(name, split) for name in COLOURS for split in ("train", "test")}
    found = set()
    for split in ("train", "test"):
        for number in range(7):
            record = page(split, number, seed=3, side=SIDE)
            image = np.asarray(Image.open(io.BytesIO(record.images[0])), dtype=float)
            left, top, right, bottom = record.meta["boxes"][0]
            image[top:bottom, left:right] = 255
            for name, ink in COLOURS.items():
                if (np.abs(image - ink).sum(-1) < 60).sum() > 20:
                    found.add((name, split))
    assert found == wanted


def test_every_typeface_has_all_symbols():
    from data_prep.page_images import _typeface

    for name in (name for split in SYMBOL_TYPEFACES.values() for name in split):
        font = _typeface(name, 64)
        drawn = {_drawn(font, symbol) for symbol in (*SYMBOLS.values(), "\N{CJK UNIFIED IDEOGRAPH-9F98}")}
        assert len(drawn) == len(SYMBOLS) + 1, "the last one is missing, and so looks like what is missing"


def test_pages_are_drawn_once_read_as_a_benchmark_and_other_settings_are_refused(tmp_path):
    home = make_pages(tmp_path, num_train=3, num_test=7, side=128)
    first = (home / "test" / "pages-test-00000.tar").read_bytes()
    assert make_pages(tmp_path, num_train=3, num_test=7, side=128) == home
    with pytest.raises(ValueError, match="was made with"):
        make_pages(tmp_path, num_train=3, num_test=7, side=128, seed=1)
    again = make_pages(tmp_path / "again", num_train=3, num_test=7, side=128)
    assert (again / "test" / "pages-test-00000.tar").read_bytes() == first
    for split in ("train", "test"):
        licence = json.loads((home / split / "dataset.json").read_text())["licence"]
        assert all(name in licence for name in ("scikit-learn", "matplotlib"))

    questions = list(Pages().questions(tmp_path))
    assert [question.split for question in questions] == [f"{round(100 * s):02d}%" for s in SIZES for _ in QUESTIONS]
    assert _score(questions, [question.references[0] for question in questions]) == 1.0
    assert _score(questions, ["ten"] * 14) == 0.0


@pytest.mark.parametrize("command", [pages, probes])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--side", "63"], "--side 63: give 64 or more"),
        (["--num-train", "0"], "--num-train 0: give 1 or more"),
        (["--num-test", "-1"], "--num-test -1: give 1 or more"),
        (["--seed", "-1"], "--seed -1: give 0 or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(tmp_path, command, option, said):
    with pytest.raises(ValueError, match=said):
        command.main(["--root", str(tmp_path / "data"), *option])
    assert not (tmp_path / "data").exists()


def _drawn(font: ImageFont.FreeTypeFont, symbol: str) -> bytes:
    page = Image.new("L", (128, 128))
    ImageDraw.Draw(page).text((0, 0), symbol, fill=255, font=font)
    return page.tobytes()


def _score(questions: list[Question], answers: list[str]) -> float:
    metric = Pages().metric(questions, None)
    for question, answer in zip(questions, answers, strict=True):
        metric.update(answer, question)
    return metric.compute()["accuracy"]
