"""`demo`: the images and questions of the easy-vqa package (MIT) as shards, one sample an image; or as preferences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from dragonfly_lit.data.index import index_folder
from dragonfly_lit.io.lock import locked
from dragonfly_lit.spec.samples import Record, Turn
from dragonfly_lit.spec.shard import DATASET_FILE

from .arguments import command_parser
from .progress import progress_bar
from .shards import new_folder, shard_name, write_shard

NAME, PREFERENCES = "easy_vqa", "easy_vqa_preferences"
LICENCE = "MIT"
SPLITS = ("train", "test")
SHARD_SIZE = 500
CAPTION_PROMPT = "Describe the image."
SHAPES = ("circle", "rectangle", "triangle")


@dataclass(frozen=True, kw_only=True)
class ImageQuestions:
    """One image of the package and its questions, numbered in the order of the official split."""

    number: int
    path: Path
    questions: tuple[tuple[str, str, str], ...]
    """(id, question, answer) of each question."""


def caption(questions: Iterable[tuple[str, str]]) -> str | None:
    """What the answers to "what ..." questions say of an image: "a red triangle", "a triangle" or "something red".

    Args:
        questions: pairs of question and answer about one image.
    """
    told = {answer for question, answer in questions if question.startswith("what")}
    shape = next((answer for answer in sorted(told) if answer in SHAPES), None)
    color = next((answer for answer in sorted(told) if answer not in SHAPES), None)
    if shape is None:
        return f"something {color}" if color else None
    return f"a {color} {shape}" if color else f"a {shape}"


def read_split(split: str) -> list[ImageQuestions]:
    """The images of an official split by number. Question ids are "test-000123", the place in the split's list.

    Raises:
        ValueError: the package easy_vqa is not installed.
    """
    try:
        import easy_vqa
    except ImportError as error:
        raise ValueError("package easy_vqa, the demo data, is not installed. Run pip install easy-vqa.") from error
    train = split == "train"
    texts, answers, numbers = easy_vqa.get_train_questions() if train else easy_vqa.get_test_questions()
    paths = easy_vqa.get_train_image_paths() if train else easy_vqa.get_test_image_paths()
    questions = defaultdict(list)
    for place, (text, answer, number) in enumerate(zip(texts, answers, numbers, strict=True)):
        questions[number].append((f"{split}-{place:06d}", text, answer))
    return [
        ImageQuestions(number=number, path=Path(paths[number]), questions=tuple(questions[number]))
        for number in sorted(questions)
    ]


def to_record(image: ImageQuestions, split: str) -> Record:
    """One sample: every question a pair of its own, in train after a caption; `meta.question_ids` has one id a pair."""
    pairs = list(image.questions)
    told = caption((question, answer) for _, question, answer in pairs)
    if split == "train" and told:
        pairs.insert(0, (f"{split}-caption-{image.number:04d}", CAPTION_PROMPT, told))
    return Record(
        key=f"{split}-{image.number:04d}",
        source=NAME,
        licence=LICENCE,
        share_image=True,
        turns=tuple(_turns((question, answer) for _, question, answer in pairs)),
        images=(image.path.read_bytes(),),
        meta={"question_ids": [name for name, _, _ in pairs]},
    )


def to_preference(image: ImageQuestions, split: str, answers: Mapping[str, Sequence[str]]) -> Record:
    """One of the questions about an image: the right answer is chosen, another one of its kind rejected.

    Args:
        image: with its questions.
        split: that it is of.
        answers: those of each kind of question, by `kind_of`.
    """
    name, question, answer = image.questions[image.number % len(image.questions)]
    others = [other for other in answers[kind_of(question, answer)] if other != answer]
    return Record(
        key=f"{split}-{image.number:04d}",
        source=PREFERENCES,
        licence=LICENCE,
        turns=tuple(_turns([(question, answer)])),
        rejected=others[image.number // len(image.questions) % len(others)],
        images=(image.path.read_bytes(),),
        meta={"question_ids": [name]},
    )


def kind_of(question: str, answer: str) -> str:
    """What a question asks for: yes or no, a shape, or a colour."""
    if not question.startswith("what"):
        return "yes or no"
    return "shape" if answer in SHAPES else "colour"


def answers_by_kind(images: Iterable[ImageQuestions]) -> dict[str, list[str]]:
    """The answers that are given to each kind of question, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for image in images:
        for _, question, answer in image.questions:
            found[kind_of(question, answer)].add(answer)
    return {kind: sorted(answers) for kind, answers in found.items()}


def _turns(pairs: Iterable[tuple[str, str]]) -> Iterator[Turn]:
    for place, (question, answer) in enumerate(pairs):
        yield Turn(role="user", text=question, num_images=int(place == 0))
        yield Turn(role="assistant", text=answer)


def is_made(root: Path, name: str = NAME) -> bool:
    """Whether both splits lie under `root`: a split is whole if and only if it has its dataset.json."""
    return all((root / name / split / DATASET_FILE).is_file() for split in SPLITS)


def make_demo(root: str | Path) -> Path:
    """Pack easy-VQA into `root/easy_vqa/{train,test}` unless it lies there already; takes some seconds.

    A split is written under a hidden name and renamed when it is whole, so a kill leaves nothing half believed;
    a process that comes while another one packs waits and finds the work done.

    Returns:
        The folder of both splits.
    """
    return _make(Path(root), NAME)


def make_demo_preferences(root: str | Path) -> Path:
    """Pack `root/easy_vqa_preferences/{train,test}` likewise: a pair of answers an image.

    Returns:
        The folder of both splits.
    """
    return _make(Path(root), PREFERENCES)


def _make(root: Path, name: str) -> Path:
    home = root / name
    if is_made(root, name):
        return home
    home.mkdir(parents=True, exist_ok=True)
    with locked(home, way_out="Wait until it has ended.", patience=math.inf), progress_bar() as progress:
        missing = [split for split in SPLITS if not (home / split / DATASET_FILE).is_file()]
        images = {split: read_split(split) for split in missing}
        task = progress.add_task("packing easy-VQA", total=sum(map(len, images.values())))
        for split in missing:
            answers = answers_by_kind(images[split])
            tracked = progress.track(images[split], task_id=task)
            with new_folder(home / split, f"{name}-{split}") as partial:
                if name == NAME:
                    _write_split(partial, f"{name}-{split}", (to_record(image, split) for image in tracked))
                else:
                    pairs = (to_preference(image, split, answers) for image in tracked)
                    _write_split(partial, f"{name}-{split}", pairs)
    return home


def _write_split(folder: Path, name: str, records: Iterator[Record]) -> None:
    for number, first in enumerate(records):
        write_shard(folder / shard_name(name, number), chain([first], islice(records, SHARD_SIZE - 1)))
    index_folder(folder, licence=LICENCE)


def main(argv: list[str]) -> int:
    """Make the demo data and say where they are."""
    parser = command_parser("demo", __doc__)
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of all data (default: data)")
    parser.add_argument("--preferences", action="store_true", help="a right and a wrong answer an image, for stage=dpo")
    given = parser.parse_args(argv)
    name = PREFERENCES if given.preferences else NAME
    known = is_made(given.root, name)
    home = _make(given.root, name)
    told = "data=demo_preferences" if given.preferences else "data=demo, the default,"
    print(f"{home}: {'already made' if known else 'made'}. {told} trains on it.")
    return 0
