"""A set of your own: a file of questions, and one of the metrics or your own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.options import named, path_name
from dragonfly_lit.evaluation.benchmarks.row_images import RowImages
from dragonfly_lit.evaluation.benchmarks.rows import TABLES, ImageCell, question_rows
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.by_name import MetricFactory, class_of, metric_of
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.evaluation.parsers import LETTERS
from dragonfly_lit.evaluation.prompts import NUMBERED
from dragonfly_lit.spec.cells import shown_name
from dragonfly_lit.spec.medical_vqa import answer_type
from dragonfly_lit.spec.row_files import READERS
from dragonfly_lit.spec.rows import Row, RowError, with_numbers
from dragonfly_lit.spec.shard import SPLITS
from dragonfly_lit.spec.table import DIVIDING, SHARES, Division, check_shares, divide, table_rows
from dragonfly_lit.spec.unread import check_no_choices, check_no_images

log = logging.getLogger(__name__)

NUM_ANNOTATORS = 10
TAG = "<image>"
"""What other formats put where an image stands."""
ANSWERS = ("answers", "answer")
BY_COLUMN = "Say benchmark.columns={image: NAME}, or take the column away."
"""What to do about a column with images that is not read."""
CHOICES = ("choices", "options")
FIELDS = (
    "id", "question_id", "question", "image", "images", "answer", "answers", "choices", "options", "category", "split",
    "hint", "answer_type", "patient", "study",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Manifest(Benchmark):
    """Questions of a JSONL, JSON, CSV, TSV, XLSX, Parquet or Arrow file, in the shapes that docs/evaluation.md lists.

    A row has `question`; `image` or `images` (names of files beside the manifest, or the images themselves); `answer`
    or `answers`; and may have `id`, `choices`, `category`, `split`, `hint` and `answer_type` (open or closed). The
    answer of a multiple-choice question is the choice itself, its letter, or its number from 0. For `vqa_accuracy` one
    answer counts as ten people who agree. Every row goes through `spec.rows`: a field of another form is refused.

    Attributes:
        name: of the set, in the results.
        manifest: the file.
        images: a folder that images may lie in too; without it they lie in the manifest's.
        columns: what is called how in the file; the rest is matched by names, as `data_prep pack` does.
        split: of a table that is divided, the part that is asked; `all` asks every row. Empty is `test` where a column
            `split` has rows to train on, and all of a table that is not divided.
        split_by: the column that divides, as `pack --split-by` takes it.
        split_shares: as `pack --split-shares` takes them.
        frames: of a DICOM file with several frames: `all`, `middle` or a number from 0.
        window: black and white of images of more than 8 bits.
        metric_name: how it is called in the results.
        make_metric: a class of metric, or one with some arguments given.
    """

    splits = ("", *SPLITS, "all")
    numbers_images = True
    expects = "one JSON object a line, a table (CSV, TSV, XLSX), or a Parquet or Arrow file"

    name: str = "my_set"  # pyright: ignore[reportIncompatibleVariableOverride] - of the class elsewhere
    manifest: str | Path = ""
    images: str | Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    split_by: str | None = None
    split_shares: Sequence[float] = SHARES
    frames: Literal["all", "middle"] | int | None = None
    window: Sequence[float] | None = None
    metric_name: str = "exact_match"
    make_metric: MetricFactory = ExactMatch
    split: str = ""
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.manifest:
            raise ValueError(f"benchmark.manifest is empty: give a file of questions ({', '.join(READERS)}).")
        check_shares(self.split_shares, "benchmark.split_shares")
        shared = tuple(self.split_shares) != SHARES
        if self.split == "all" and (self.split_by is not None or shared):
            given = f"benchmark.split_by={self.split_by}" if self.split_by is not None else "benchmark.split_shares"
            raise ValueError(f"benchmark.split=all asks every row, so {given} divides nothing. Leave one of them out.")
        if self.window is not None and (len(self.window) != 2 or not self.window[0] < self.window[1]):
            raise ValueError(f"benchmark.window={self.window}: give two numbers, black below white.")
        if self.images is not None and not Path(self.images).is_dir():
            raise ValueError(f"benchmark.images={self.images}: there is no such folder.")

    @property
    def metric_type(self) -> type[QuestionMetric]:  # pyright: ignore[reportIncompatibleVariableOverride] - likewise
        """The class that scores, which knows its headline."""
        return class_of(self.make_metric)

    @property
    def parser(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - likewise
        """The rule is the metric's."""
        return self.metric_name

    @property
    def asked_with(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - of the class elsewhere
        """Captions are asked for as they are, everything else for a short answer or a letter."""
        return "released" if self.metric_name == "captions" else "llava"

    @property
    def variant(self) -> tuple[str, ...]:
        """The file, and whatever else makes other questions or scores of it."""
        told = {
            "images": self.images and path_name(self.images),
            "split_by": self.split_by and f"by_{self.split_by}",
            "shares": () if tuple(self.split_shares) == SHARES else tuple(f"{share:g}" for share in self.split_shares),
            "frames": None if self.frames is None else f"frames_{self.frames}",
            "window": self.window and tuple(f"{each:g}" for each in self.window),
            "columns": self.columns,
            "metric": "" if self.metric_name == "exact_match" else self.metric_name,
            "arguments": self.make_metric.keywords if isinstance(self.make_metric, partial) else {},
        }
        # `questions` for `questions.csv`: a table is the usual form, and another one of the same name another set.
        return (
            path_name(self.manifest).removesuffix(".csv"),
            *(named(name, value) for name, value in told.items() if value),
        )

    def locate(self, data_root: str | Path) -> Path:
        """The manifest; a relative path is searched in the working folder, then below `data_root`."""
        path = Path(self.manifest)
        found = next((p for p in (path, Path(data_root) / path) if p.is_file()), None)
        if found is None:
            raise ValueError(f"benchmark.manifest={path}: there is no such file, nor {Path(data_root) / path}.")
        return found

    def read(self, folder: Path) -> Iterable[Question]:
        """The questions of the file `folder`, in its order."""
        part, division = self._division(folder)
        number = 0
        for number, (row, images) in enumerate(question_rows(folder, self.columns), start=1):
            if part and division.part_of(row) != part:
                continue
            choices_apart = row.has("A") and row.has("B")
            for name in row.values:
                known = name in FIELDS or (choices_apart and name in tuple(LETTERS))
                if not known and folder.suffix.lower() not in TABLES and not str(name).startswith("_"):
                    told = f"is not a field of a manifest; use {', '.join(FIELDS)}, or let its name begin with _."
                    raise row.error(shown_name(name), told)
            yield self._question(row, number, images, folder.parent)
        if number == 0:
            raise ValueError(f"{folder}: there is no row in it.")

    def questions(self, data_root: str | Path, *, hidden: bool = False) -> list[Question]:
        """The questions, checked; how many of them have no image is said."""
        found = super().questions(data_root, hidden=hidden)
        if bare := [question.id for question in found if not question.images]:
            log.warning(
                "%s: %d of %d questions have no image; the first is %s.", self.name, len(bare), len(found), bare[0]
            )
        return found

    def _division(self, path: Path) -> tuple[str, Division]:
        """The part of the rows that is asked, empty for all of them, and which row is in which."""
        if self.split == "all":
            return "", Division()
        try:
            found = divide(table_rows(path, self.columns, encoded=False), self.split_by, self.split_shares)
        except ValueError as error:
            said = str(error)
            told = f"{path}{said.removeprefix(path.name)}" if said.startswith(path.name) else f"{path}: {said}"
            raise ValueError(said if str(path) in said else told) from error
        parts = [part for part in SPLITS if part in found.parts.values()]
        if not self.split:
            if found.by and not found.says:
                raise ValueError(
                    f"{path} has a column {found.by}, by which pack divides it. benchmark.split=test asks the rows "
                    "that pack keeps for testing, benchmark.split=all asks every row."
                )
            if "train" not in parts:
                return "", found
        elif not found.by:
            raise ValueError(
                f"benchmark.split={self.split}: no column of {path} divides it ({', '.join(DIVIDING)}). Say which "
                "does with benchmark.split_by, or take benchmark.split=all."
            )
        part = self.split or "test"
        if part not in parts:
            for row in table_rows(path, self.columns, encoded=False):  # a word that is misspelt may have been meant
                if not isinstance(row, RowError):
                    row.place = replace(row.place, file=str(path))
                    found.part_of(row)
            raise ValueError(
                f"benchmark.split={part}: {path} has no row there, by its column {found.by}. Choose "
                f"{' or '.join(parts) or 'a part that it names'}, or benchmark.split=all for every row."
            )
        if not self.split:
            log.warning(
                "%s: column %s of %s has rows to train on, so only those in test are asked; benchmark.split=all asks "
                "every row.",
                self.name,
                found.by,
                path,
            )
        return part, found

    def _question(self, row: Row, number: int, images: Sequence[ImageCell], beside: Path) -> Question:
        key = row.text_or(f"row-{number:06d}", "id", "question_id", numbers=True)
        words = row.text("question")
        found = RowImages(folder=self.images, frames=self.frames, window=self.window)
        places = list(found.of(row, images, beside))
        text = _with_names(row, words, len(places))
        check_no_images(row, BY_COLUMN, has_images=bool(places), known=FIELDS)
        row = with_numbers(row, (*ANSWERS, *CHOICES, *LETTERS), whole=self.metric_name == "relaxed_accuracy")
        choices = row.choices(*CHOICES)
        if choices is None and (empty := next((name for name in CHOICES if row.values.get(name) is not None), None)):
            raise row.wrong(empty, row.values[empty], "choices, or null where a question has none")
        if choices is None:
            check_no_choices(row, *CHOICES)
        if not row.has(*ANSWERS):
            raise row.error("answer", f"question {key} has no answer. Give it, or leave the row out.")
        answers = self._answers(row) if choices is None else _letters(row, choices)
        kind = row.text_or(answer_type(answers[0]), "answer_type")
        return self.question(
            key,
            text,
            images=places,
            references=answers,
            choices=choices,
            category=row.text_or("", "category", numbers=True),
            split=row.text_or("", "split", numbers=True),
            meta={"hint": row.text_or("", "hint"), "answer_type": kind.lower()},
        )

    def _answers(self, row: Row) -> list[str]:
        """The accepted answers; of people who were asked, a blank one is an answer too."""
        answers = row.texts(*ANSWERS, numbers=True)
        if self.metric_name != "vqa_accuracy":
            return answers
        value = row.raw(row.pick(*ANSWERS))
        num_given = len(value) if isinstance(value, list | tuple) else len(answers)
        return (
            answers * NUM_ANNOTATORS if len(answers) == num_given == 1 else answers + [""] * (num_given - len(answers))
        )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """The chosen metric."""
        return self.make_metric(questions)


def manifest(name: str, manifest: str | Path, metric: str | MetricFactory, **options: Any) -> Manifest:
    """A set of your own, as `conf/benchmark/my_set.yaml` describes it.

    Args:
        name: of the set.
        manifest: its file.
        metric: one of `METRICS`, or a class of your own as `module.Class`, or such a class with arguments given.
        options: attributes of `Manifest`; None of `split` and `columns` is their default.

    Raises:
        ValueError: there is no such metric.
    """
    options = {key: value for key, value in options.items() if value is not None or key not in ("split", "columns")}
    make, called = metric_of(metric)
    return Manifest(name=name, manifest=manifest, metric_name=called, make_metric=make, **options)


def _with_names(row: Row, text: str, num_images: int) -> str:
    """The question without the tags at its ends: images come first. Tags among its words become the images' names."""
    if TAG not in text:
        return text
    if not num_images:
        raise row.error("question", f"says {TAG}, and the row has no image.")
    words = text.strip()
    while words.startswith(TAG) or words.endswith(TAG):
        words = words.removeprefix(TAG).removesuffix(TAG).strip()
    if not words:
        raise row.error("question", f"is nothing but {TAG}. Write what is asked.")
    if TAG not in words:
        return words
    if NUMBERED.search(text):
        raise row.error("question", f"has {TAG} and `<image N>`. Use one of them for all its images.")
    if (num_tags := text.count(TAG)) != num_images:
        raise row.error(
            "question",
            f"has {num_tags} {TAG}, the place of an image each, and the row has {num_images} images. Give as many, or "
            "call them `the first image`.",
        )
    pieces = text.split(TAG)
    return "".join([pieces[0], *(f"<image {number}>{piece}" for number, piece in enumerate(pieces[1:], 1))])


def _letters(row: Row, choices: Sequence[str]) -> list[str]:
    name = row.pick(*ANSWERS)
    value = row.raw(name)
    several = value if isinstance(value, list | tuple) else [value]
    answers = [each["answer"] if isinstance(each, Mapping) and "answer" in each else each for each in several]
    return [row.letter(name, answer, choices) for answer in answers]
