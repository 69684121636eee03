"""MMMU: college questions of thirty subjects, some about several images, some open."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.benchmarks.tables import check_images, image_of, missing, parquet_files, parquet_rows
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.choice import MMMU
from dragonfly_lit.evaluation.parsers import LETTERS

DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
NUM_IMAGES = 7


@dataclass(frozen=True, kw_only=True)
class MMMUTask(Task):
    """The subjects' files of MMMU/MMMU or the one file of lmms-lab/MMMU. The answers of the test split are not public.

    A question keeps its `<image 1>`; the images that it or its choices name come along, in the order of their numbers.
    """

    name: ClassVar[str] = "mmmu"
    splits: ClassVar[tuple[str, ...]] = ("validation", "dev")
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"validation": (900,), "dev": (150,)}
    parser: ClassVar[str] = "MMMU, with no answer where it draws one at random"
    expects: ClassVar[str] = (
        "SUBJECT/validation-*.parquet for thirty subjects (MMMU/MMMU) or data/validation-*.parquet (lmms-lab/MMMU), "
        "with id, question, options, answer, question_type, image_1 to image_7"
    )

    split: str = "validation"
    max_new_tokens: int = 128

    def read(self, folder: Path) -> Iterable[Question]:
        """Subjects in the order of their names."""
        files = [file for subject in sorted(DOMAIN_OF) for file in parquet_files_of(folder, subject, self.split)]
        files = files or parquet_files(folder, self.split)
        if not files:
            raise missing(self.source, folder, f"{self.split}-*.parquet")
        filled = [check_images(files, f"image_{number}") for number in range(1, NUM_IMAGES + 1)]
        columns = ("id", "question", "options", "answer", "question_type", "image_1")
        # The image columns are large and read on demand; image_1 must only be there.
        for row, fields in enumerate(parquet_rows(self.source, files, columns[:-1])):
            yield self._question(fields, [column[row] for column in filled])

    def _question(self, row: Mapping[str, Any], filled: Sequence[bool]) -> Question:
        key, options = row["id"], parse_options(self.name, row["id"], row["options"])
        subject = re.fullmatch(r"[^_]+_(.+?)_\d+", key)
        if subject is None or subject.group(1) not in DOMAIN_OF:
            raise ValueError(f"{self.name}: question {key!r} names no subject; expected e.g. validation_Accounting_1.")
        named = {int(number) for number in re.findall(r"<image (\d+)>", " ".join([row["question"], *options]))}
        named = named or {1} & {number for number in range(1, NUM_IMAGES + 1) if filled[number - 1]}
        absent = [number for number in sorted(named) if not 1 <= number <= NUM_IMAGES or not filled[number - 1]]
        if absent:
            raise ValueError(
                f"{self.name}: question {key} names <image {absent[0]}>, and its image_{absent[0]} is empty."
            )
        choice = row["question_type"] == "multiple-choice"
        answers = (row["answer"],) if choice else parse_answers(row["answer"])
        if choice and row["answer"] not in LETTERS[: len(options)]:
            raise ValueError(
                f"{self.name}: question {key} has {len(options)} options and the answer {row['answer']!r}."
            )
        return Question(
            id=key,
            task=self.name,
            text=row["question"],
            choices=options if choice else None,
            references=tuple(answer for answer in answers if answer),
            images=tuple(image_of(dict(row), f"image_{number}") for number in sorted(named)),
            category=subject.group(1),
            split=DOMAIN_OF[subject.group(1)],
        )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Accuracy over letters and open answers."""
        return MMMU(questions)


def parquet_files_of(folder: Path, subject: str, split: str) -> list[Path]:
    """The parquet files of one subject's folder, none where it has none."""
    return sorted((folder / subject).glob(f"{split}-*.parquet")) or sorted((folder / subject).glob(f"{split}.parquet"))


def parse_options(task: str, key: str, options: str | Sequence[str]) -> tuple[str, ...]:
    """The options, which MMMU stores as the text of a Python list; read as a literal, never evaluated.

    Raises:
        ValueError: the text is not a list.
    """
    if isinstance(options, str):
        try:
            options = ast.literal_eval(options.strip() or "[]")
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"{task}: question {key}: options {options!r:.60} are not the text of a list.") from error
    if not isinstance(options, list | tuple):
        raise ValueError(f"{task}: question {key}: options {options!r:.60} are not the text of a list.")
    return tuple(map(str, options))


def parse_answers(answer: str) -> tuple[str, ...]:
    """The gold answers of an open question: one, or several as the text of a Python list."""
    if answer.strip().startswith("["):
        try:
            parsed = ast.literal_eval(answer.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return (answer,)
        if isinstance(parsed, list) and parsed:
            return tuple(map(str, parsed))
    return (answer,)
