"""The demo data are the whole of easy-VQA, and captions come from its own answers."""

import pytest

easy_vqa = pytest.importorskip("easy_vqa")

from data_prep import demo  # noqa: E402
from dragonfly_lit.data.dataset import open_dataset  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    demo.make_demo(root)
    return root


@pytest.mark.parametrize(
    ("questions", "told"),
    [
        ([("what shape is present?", "circle"), ("what color is the shape?", "red")], "a red circle"),
        ([("what shape is present?", "circle"), ("is there a red shape?", "yes")], "a circle"),
        ([("what color is the circle?", "teal")], "something teal"),
        ([("is there a circle?", "yes")], None),
    ],
)
def test_a_caption_says_what_the_answers_say(questions, told):
    assert demo.caption(questions) == told


def test_every_test_question_is_there_once_in_a_sample_of_its_image(root):
    texts, answers, numbers = easy_vqa.get_test_questions()
    shards = open_dataset(root / "easy_vqa" / "test")
    seen = {}
    for i in range(len(shards)):
        record = shards[i]
        pairs = zip(record.meta["question_ids"], record.turns[::2], record.turns[1::2], strict=True)
        for name, question, answer in pairs:
            seen[name] = (question.text, answer.text, record.key)
    expected = {f"test-{i:06d}": (texts[i], answers[i], f"test-{numbers[i]:04d}") for i in range(len(texts))}
    assert len(expected) == 9673
    assert seen == expected


def test_a_train_sample_opens_with_its_caption_and_has_the_image_as_it_is(root):
    record = open_dataset(root / "easy_vqa" / "train")[0]
    paths = easy_vqa.get_train_image_paths()
    assert record.share_image
    assert [turn.text for turn in record.turns[:2]] == ["Describe the image.", "a blue rectangle"]
    assert [turn.num_images for turn in record.turns] == [1] + [0] * (len(record.turns) - 1)
    with open(paths[0], "rb") as file:
        assert record.images == (file.read(),)


def test_made_twice_it_is_made_once_and_made_anew_it_is_the_same(root, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.tar")}
    demo.make_demo(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.tar")} == before
    (root / "easy_vqa" / "test" / "dataset.json").rename(tmp_path / "dataset.json")
    shard = root / "easy_vqa" / "test" / "easy_vqa-test-00000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5000])
    demo.make_demo(root)
    assert shard.read_bytes() == whole
    assert (root / "easy_vqa" / "test" / "dataset.json").read_bytes() == (tmp_path / "dataset.json").read_bytes()
