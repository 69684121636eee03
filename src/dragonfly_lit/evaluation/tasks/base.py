"""What a benchmark is: questions read from a local folder, a prompt, a metric, and published rows to compare with."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dragonfly_lit.evaluation.tasks.images import StoredImage

if TYPE_CHECKING:
    from dragonfly_lit.evaluation.metrics.base import QuestionMetric
    from dragonfly_lit.evaluation.published import PublishedRow

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a benchmark, as its data set words it; the prompt template is applied later.

    Attributes:
        id: unique within the task, the same on every machine and in every layout where the data set numbers its questions.
        task: name of the benchmark.
        text: the question without choices, hints or instructions.
        images: where the images are; empty for a text-only question. Read them with `read_images`.
        answers: accepted answers; ten human answers, one gold answer, or the letter of the right choice.
        choices: texts of the choices of a multiple-choice question, else None.
        category: what the breakdown groups by (subject, subtask, question type).
        split: the part of the benchmark that is scored apart (human or augmented, random or popular).
        meta: what a prompt or a metric needs besides (hint, OCR tokens, answer type, pair id).
    """

    id: str
    task: str
    text: str
    images: tuple[bytes | Path | StoredImage, ...] = ()
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    category: str = ""
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Identity of each image: two questions with equal keys look at the same images, so a prefix can be shared."""
        return tuple(_image_key(image) for image in self.images)

    def read_images(self) -> tuple[bytes, ...]:
        """The encoded images; a ValueError names the question when one is missing."""
        try:
            return tuple(
                image if isinstance(image, bytes) else image.read_bytes() for image in self.images
            )  # Path and StoredImage share the method
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.task}: question {self.id}: its image cannot be read: {error}") from error


def _image_key(image: bytes | Path | StoredImage) -> str:
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    return image.key if isinstance(image, StoredImage) else str(image)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One benchmark with its options; a subclass says how its published layouts are read.

    Attributes:
        split: the split to read, one of `splits`.
        limit: only the first so many questions.
        folder: where the data lies; `data_root/name` unless set.
        max_new_tokens: generation stops there.
    """

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("test",)
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Known numbers of questions a split; several where published copies differ."""
    headline: ClassVar[str] = "accuracy"
    """The key of `metric.compute()` that stands in the table."""
    scale: ClassVar[float] = 100.0
    """What papers multiply the headline by."""
    parser: ClassVar[str] = "exact"
    """Name of the rule that reads an answer out of the output, for the results file."""
    judged: ClassVar[bool] = False
    """Whether the metric needs scores of a judge."""
    multiple_choice: ClassVar[bool] = False

    split: str = "test"
    limit: int | None = None
    folder: str | Path | None = None
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        if self.split not in self.splits:
            raise ValueError(f"benchmark.split={self.split!r}: {self.name} has {', '.join(self.splits)}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"benchmark.limit={self.limit}: give at least 1 question, or null for all of them.")

    @abstractmethod
    def read(self, folder: Path) -> Iterable[Question]:
        """All questions of `self.split` below `folder`, in the data set's order."""

    @abstractmethod
    def metric(self, questions: Sequence[Question], judged: Mapping[str, float] | None = None) -> QuestionMetric:
        """A metric over exactly these questions; `judged` holds a judge's score by question id where one is needed."""

    def questions(self, data_root: str | Path) -> list[Question]:
        """The questions to ask, checked.

        Raises:
            ValueError: a file is missing (says what was expected), an id stands twice, or an image or answer is missing.
        """
        folder = Path(self.folder) if self.folder is not None else Path(data_root) / self.name
        questions: list[Question] = []
        for question in self.read(folder):
            questions.append(question)
            if self.limit is not None and len(questions) == self.limit:
                break
        check_questions(self.name, questions)
        if note := self.count_note(len(questions)):
            log.warning(note)
        return questions

    def count_note(self, num_questions: int) -> str | None:
        """What to tell the reader when the set is not the published one, else None."""
        known = self.counts.get(self.split, ())
        if self.limit is not None or not known or num_questions in known:
            return None
        expected = " or ".join(f"{count:,}" for count in known)
        return f"{self.name} {self.split}: {num_questions:,} questions; the published split has {expected}."

    def published(self) -> tuple[PublishedRow, ...]:
        """Verified rows of papers for this benchmark."""
        from dragonfly_lit.evaluation.published import rows_of

        return rows_of(self.name)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Itself: a single benchmark and a suite are used alike."""
        return (self,)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Several benchmarks scored in one run, in the order of the mapping."""

    name: str
    members: Mapping[str, Task]
    limit: int | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The benchmarks; the suite's limit, where one is given, replaces their own."""
        members = tuple(self.members.values())
        return members if self.limit is None else tuple(replace(task, limit=self.limit) for task in members)


def check_questions(task: str, questions: Sequence[Question]) -> None:
    """A ValueError for an empty set, an id that stands twice, or a question without text or answer."""
    if not questions:
        raise ValueError(f"{task}: no question was found.")
    repeated = [key for key, count in Counter(q.id for q in questions).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{task}: {len(repeated)} question ids stand more than once, e.g. {repeated[0]!r}; "
            "answers are matched by id, so each must be unique."
        )
    for question in questions:
        if not question.text.strip():
            raise ValueError(f"{task}: question {question.id} has no text.")
        if not question.answers and not question.meta.get("hidden"):
            raise ValueError(
                f"{task}: question {question.id} has no answer. Remove it, or read a split with public answers."
            )
        missing = [image for image in question.images if isinstance(image, Path) and not image.is_file()]
        if missing:
            raise ValueError(f"{task}: question {question.id}: there is no image {missing[0]}.")
