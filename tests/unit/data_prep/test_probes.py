"""The probes: deterministic, split by writer sample, every detail where the question says."""

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")
from data_prep.drawn import SIZES, TRAIN_SIZES, answers_of, chance
from data_prep.probe_images import COLOURS, digits
from data_prep.probes import FIND, KINDS, PLACES, make_probes, probe, writer_samples

SIDE = 128


@pytest.fixture(scope="module")
def records():
    return [probe("train", number, seed=0, side=SIDE, kinds=KINDS) for number in range(140)]


def test_a_probe_is_a_function_of_its_number_and_seed(records):
    assert probe("train", 5, seed=0, side=SIDE, kinds=KINDS) == records[5]
    assert probe("train", 5, seed=1, side=SIDE, kinds=KINDS) != records[5]


def test_no_written_digit_is_in_both_splits():
    train, test = (writer_samples(split) for split in ("train", "test"))
    for digit in range(10):
        assert set(train[digit]).isdisjoint(test[digit])
        assert len(train[digit]) + len(test[digit]) == int((digits()[1] == digit).sum())


def test_a_split_uses_its_own_writer_samples_only(records):
    allowed = {row for rows in writer_samples("train").values() for row in rows}
    assert {row for record in records for row in record.meta["writer_samples"]} <= allowed


def test_details_lie_in_the_quarter_that_the_question_names(records):
    for record in records:
        for user, box in zip(record.turns[0::2], record.meta["boxes"], strict=True):
            for place, (column, row) in PLACES.items():
                if place in user.text:
                    left, top, right, bottom = box
                    assert column * SIDE // 2 <= left < right <= (column + 1) * SIDE // 2
                    assert row * SIDE // 2 <= top < bottom <= (row + 1) * SIDE // 2


def test_details_have_the_size_that_the_record_says(records):
    for record in records:
        for box in record.meta["boxes"]:
            if box is not None:
                width = (box[2] - box[0]) / SIDE
                assert abs(width - record.meta["size"]) <= 0.15 * record.meta["size"] + 2 / SIDE
    assert {record.meta["size"] for record in records} == set(TRAIN_SIZES)
    assert {probe("test", number, seed=0, side=SIDE).meta["size"] for number in range(7)} == set(SIZES)


def test_the_colour_that_is_asked_for_is_on_the_tile(records):
    num_asked = 0
    for record in (r for r in records if r.meta["size"] == max(SIZES)):
        image = np.asarray(Image.open(io.BytesIO(record.images[0])), dtype=float)
        for question, answer, box in zip(record.turns[0::2], record.turns[1::2], record.meta["boxes"], strict=True):
            if "what color" in question.text:
                left, top, right, bottom = box
                tile = image[top:bottom, left:right].reshape(-1, 3)
                distance = {name: np.abs(tile - ink).sum(1).min() for name, ink in COLOURS.items()}
                assert distance[answer.text] < 60
                num_asked += 1
    assert num_asked > 5


def test_chance_is_the_share_of_the_most_frequent_answer(records):
    told = chance(pair for record in records for pair in answers_of(record))
    assert set(told) == set(KINDS)
    assert told["digit"] < 0.25
    assert told["colour"] < 0.25
    assert 0.4 < told["count"] < 0.8


def test_what_a_question_names_is_there_once():
    for number in range(21):
        record = probe("test", number, seed=0, side=SIDE)
        assert record.meta["kinds"] == list(FIND)
        assert record.meta["boxes"][0] == record.meta["boxes"][1]
        assert len(record.meta["writer_samples"]) == 3


def test_made_twice_is_made_once_and_other_settings_are_refused(tmp_path):
    home = make_probes(tmp_path, num_train=8, num_test=7, seed=0, side=SIDE)
    first = (home / "train" / "probes-train-00000.tar").read_bytes()
    assert make_probes(tmp_path, num_train=8, num_test=7, seed=0, side=SIDE) == home
    with pytest.raises(ValueError, match="was made with"):
        make_probes(tmp_path, num_train=9, num_test=7, seed=0, side=SIDE)
    other = make_probes(tmp_path / "again", num_train=8, num_test=7, seed=0, side=SIDE)
    assert (other / "train" / "probes-train-00000.tar").read_bytes() == first
