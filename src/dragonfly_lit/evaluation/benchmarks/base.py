"""What a benchmark is: questions read from a local folder, prompts, a metric, and published rows to compare with."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.options import changed, named
from dragonfly_lit.evaluation.benchmarks.tables import Reader, has_images, word
from dragonfly_lit.evaluation.images import StoredImage
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.evaluation.prompts import DEFAULT, SETS, PromptBook, Template
from dragonfly_lit.evaluation.published import PublishedRow
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.io.text import counted
from dragonfly_lit.spec.cells import shown
from dragonfly_lit.spec.tokens import STRUCTURAL

__all__ = ["Benchmark", "Question", "Suite", "check_questions"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table that a challenge's server takes as a workbook."""

    columns: Sequence[str]
    rows: Sequence[Mapping[str, str | int | None]]


@dataclass(frozen=True, kw_only=True)
class Benchmark(Reader, ABC):
    """One benchmark with its options. Its class holds everything about it; `name`, `metric_type` and `read` are enough.

    Attributes:
        split: the split to read, one of `splits`.
        limit: only the first so many questions.
        show: so many questions are printed as the model would get them, and no model is asked.
        folder: where the data lies; `data_root/name` unless set.
        max_new_tokens: generation stops there.
        circular: each question is asked once for every rotation of its choices, and is right only when all are.
    """

    title: ClassVar[str] = ""
    """Its full name and the paper."""
    original: ClassVar[str] = ""
    """The files of the original release."""
    hub: ClassVar[tuple[str, ...]] = ()
    """Repositories of the Hugging Face hub, each with the configuration that is read."""
    licence: ClassVar[str] = "not stated by the release"
    note: ClassVar[str] = ""
    """What else a user of the data must know."""
    verified: ClassVar[str] = ""
    """Which of this was compared with which source, and what was not."""
    numbers_images: ClassVar[bool] = False
    """Whether `<image 1>` in a question is the place of its first image, where a model has images in place."""
    splits: ClassVar[tuple[str, ...]] = ("test",)
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Known numbers of questions a split; several where published copies differ."""
    metric_type: ClassVar[type[QuestionMetric]] = ExactMatch
    parser: ClassVar[str] = "exact"
    """Name of the rule that reads an answer out of the output, for the results file."""
    judged: ClassVar[bool] = False
    """Whether the metric needs scores of a judge."""
    server: ClassVar[str] = ""
    """Who scores answers to its hidden questions, if somebody does; `submission` makes the file."""
    listed: ClassVar[str] = ""
    """Why its choices are not rotated, if so: the data have them in every order, or the questions list them."""
    prompts: ClassVar[Mapping[str, Template]] = {}
    """Its templates by the name of the prompt set; a set that is not here gives its default."""
    asked_with: ClassVar[str] = "llava"
    """The prompt set of `prompt=default`: the one that its published rows were made with."""
    published: ClassVar[tuple[PublishedRow, ...]] = ()
    """Verified rows of papers."""

    split: str = "test"
    limit: int | None = None
    show: int | None = None
    folder: str | Path | None = None
    max_new_tokens: int = 16
    circular: bool = False

    def __post_init__(self) -> None:
        if self.split not in self.splits:
            raise ValueError(f"benchmark.split={self.split!r}: {self.name} has {', '.join(filter(None, self.splits))}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"benchmark.limit={self.limit}: give at least 1 question, or null for all of them.")
        check_shown(self.show)
        if self.circular and self.listed:
            raise ValueError(f"benchmark.circular=true: {self.name} is not asked like that: {self.listed}.")

    @property
    def variant(self) -> tuple[str, ...]:
        """What besides the split tells these questions from the benchmark's usual ones, for the name of a folder."""
        known = {each.name for each in fields(Benchmark)}
        return tuple(named(name, value) for name, value in changed(self).items() if name not in known)

    def limited(self, num_questions: int) -> bool:
        """Whether a limit left questions out, as far as the known counts tell."""
        return (
            self.limit is not None
            and num_questions >= self.limit
            and num_questions not in self.counts.get(self.split, ())
        )

    @property
    def headline(self) -> str:
        """The key of `metric.compute()` that the table shows."""
        return self.metric_type.headline

    def submission(self, answered: Sequence[tuple[Question, str]]) -> Any:
        """What the server takes, of each question and its output: what JSON can hold, or a `Sheet`."""
        # Asked of benchmarks with a `server` only, each of which says it.
        raise NotImplementedError(f"{self.name} has no server.")

    @abstractmethod
    def read(self, folder: Path) -> Iterable[Question]:
        """All questions of `self.split` below `folder`, in the data set's order."""

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """A metric over exactly these questions; `judged` holds a judge's score by question id where one is needed."""
        return self.metric_type(questions)

    def question(self, key: object, text: str, *, images: Iterable[Any], references: Iterable[str], **more) -> Question:
        """A question of this benchmark; `more` are further attributes of `Question`.

        Raises:
            ValueError: the id, the text, an answer or a choice is not a text, or holds half a character.
        """
        name = word(key, "the id of a question")
        made = Question(
            id=name,
            task=self.name,
            text=text,
            images=tuple(images),
            references=tuple(word(each, f"answer of question {name}") for each in references),
            **more,
        )
        if not isinstance(text, str):
            raise ValueError(f"question {name}: found {shown(text)} in place of its text.")
        for said in (text, *made.references, *(made.choices or ()), made.category, made.split):
            if not isinstance(said, str) or not _encodes(said):
                raise ValueError(f"question {name}: {shown(said)} is not a text that can be written as UTF-8.")
        return made

    def template(self, book: PromptBook) -> Template:
        """The prompt of this benchmark in a set of prompts: the user's for it, else its own, else the set's default."""
        name = self.prompt_set(book)
        usual = SETS.get(name, book.default) if book.name == DEFAULT else book.default
        return book.templates.get(self.name) or self.prompts.get(book.name) or self.prompts.get(name) or usual

    def prompt_set(self, book: PromptBook) -> str:
        """The name of the set that this benchmark is asked with: that of `book`, unless it leaves the choice to it."""
        own = self.name in book.templates or book.name in self.prompts
        return self.asked_with if book.name == DEFAULT and not own else book.name

    def locate(self, data_root: str | Path) -> Path:
        """The folder of this benchmark; ValueError when it is not there."""
        folder = Path(self.folder) if self.folder is not None else Path(data_root) / self.name
        if not folder.is_dir():
            raise ValueError(
                f"{self.name}: there is no folder {folder}. Expected {self.expects} below data_root={data_root}."
                f"{self.origin_hint}"
            )
        return folder

    def questions(self, data_root: str | Path, *, hidden: bool = False) -> list[Question]:
        """The questions, checked.

        Args:
            data_root: folder of the benchmarks' data.
            hidden: whether a question may have no accepted answer.

        Raises:
            ValueError: a file is missing (names what was expected), an id appears twice, an image or answer is missing.
        """
        folder = self.locate(data_root)
        questions: list[Question] = []
        try:
            for question in islice(self.read(folder), self.limit):
                questions.append(question)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
            said = str(error)
            if isinstance(error, ValueError | OSError) and (self.name in said or str(folder) in said):
                raise
            kind = "" if isinstance(error, ValueError | OSError) else " has another form than the layout"
            where = f"{self.name}: {folder}: question {len(questions) + 1}{kind}"
            raise ValueError(f"{where}: {said.rstrip('.')}. Expected {self.expects}.") from error
        way_out = f", or give predict=true for the file that {self.server} scores" if self.server else ""
        check_questions(self.name, questions, hidden=hidden, way_out=way_out)
        if note := self.count_note(len(questions)):
            log.warning(note)
        return questions

    def count_note(self, num_questions: int) -> str | None:
        """A note for the reader when the set is not the published one, else None."""
        known = self.counts.get(self.split, ())
        if self.limit is not None or not known or num_questions in known:
            return None
        expected = " or ".join(f"{count:,}" for count in known)
        return f"{self.name} {self.split}: {num_questions:,} questions; the published split has {expected}."

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """Itself: a single benchmark and a suite are used alike."""
        return (self,)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Several benchmarks scored in one run, in the order of the mapping."""

    name: str
    members: Mapping[str, Benchmark]
    limit: int | None = None
    show: int | None = None
    split: ClassVar[str] = ""  # each member has its own

    def __post_init__(self) -> None:
        check_shown(self.show)

    @property
    def variant(self) -> tuple[str, ...]:
        """The members' options that are not the usual ones: `gqa.max_new_tokens=8`, `slake.language=zh`."""
        return tuple(
            f"{name}.{option}={value}" for name, one in self.members.items() for option, value in changed(one).items()
        )

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """The members; what the suite gives of `limit` and `show` replaces their own."""
        given = {"limit": self.limit, "show": self.show}
        said = {key: value for key, value in given.items() if value is not None}
        return tuple(replace(one, **said) for one in self.members.values())


def check_shown(number: object) -> None:
    """A ValueError unless `show` is null or a whole number from 0 on."""
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
        raise ValueError(f"benchmark.show={number}: give how many questions to print, such as 3, or null.")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_questions(name: str, questions: Sequence[Question], *, hidden: bool = False, way_out: str = "") -> None:
    """A ValueError for an empty set, an id that appears twice, or a question without text or (unless hidden) answer."""
    if not questions:
        raise ValueError(f"{name}: no question was found.")
    repeated = [key for key, count in Counter(q.id for q in questions).items() if count > 1]
    if repeated:
        others = f" ({counted(len(repeated), 'id')} in all)" if len(repeated) > 1 else ""
        raise ValueError(
            f"{name}: question id {repeated[0]!r} appears more than once{others}; answers are matched by id, so each "
            "must be unique."
        )
    filled: dict[tuple[Path, str], list[bool]] = {}
    for question in questions:
        if not question.text.strip():
            raise ValueError(f"{name}: question {question.id} has no text.")
        said = (question.text, *(question.choices or ()), str(question.meta.get("hint", "")))
        if token := next((token for token in STRUCTURAL for text in said if token in text), None):
            raise ValueError(f"{name}: question {question.id} holds the structural token {token}. Take it out.")
        if not question.references and not hidden:
            raise ValueError(
                f"{name}: question {question.id} has no answer. Remove it, or read a split with public answers"
                f"{way_out}."
            )
        for image in question.images:
            if isinstance(image, Path) and not image.is_file():
                raise ValueError(f"{name}: question {question.id}: there is no image {image}.")
            if isinstance(image, StoredImage):
                place = image.file, image.column
                filled[place] = filled.get(place) or has_images(*place)
                if not filled[place][image.row]:
                    row = f"row {image.row + 1} of {image.file}"
                    raise ValueError(f"{name}: question {question.id}: {row} has no image.")
