"""MMMU: college questions of thirty subjects, some about several images, some open."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import check_images, image_of, parquet_files, words
from dragonfly_lit.evaluation.metrics import choice
from dragonfly_lit.evaluation.parsers import LETTERS, final_answer
from dragonfly_lit.evaluation.parsers_mmmu import mmmu_letter
from dragonfly_lit.evaluation.prompts import LETTER, NUMBERED, SHORT, Template
from dragonfly_lit.evaluation.published import published_rows

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
class MMMU(Benchmark):
    """The subjects' files of MMMU/MMMU or the one file of lmms-lab/MMMU.

    A question keeps its `<image 1>`; the images that it or its choices name come along, in the order of their numbers.
    """

    name = "mmmu"
    title = "MMMU (Yue et al., 2024)"
    original = "the same files as on the hub"
    hub = ("MMMU/MMMU, thirty subjects", "lmms-lab/MMMU")
    licence = "Apache-2.0"
    note = "The answers of the test split are public since 2026-02-12; older copies of it have none."
    verified = "columns and counts against the hub's card, rules against MMMU's own code and lmms-eval 0.7.3's task"
    expects = (
        "SUBJECT/validation-*.parquet for thirty subjects (MMMU/MMMU) or data/validation-*.parquet (lmms-lab/MMMU), "
        "with id, question, options, answer, question_type, image_1 to image_7"
    )
    numbers_images = True
    splits = ("validation", "dev", "test")
    counts: ClassVar = {"validation": (900,), "dev": (150,), "test": (10500,)}
    server = "the MMMU challenge of EvalAI"
    metric_type = choice.MMMU
    parser = "MMMU, with no answer where it draws one at random"
    prompts: ClassVar = {
        "llava": Template(
            text=f"{{question}}\n{{options}}{LETTER}", open=f"{{question}}\n{SHORT}", option="({letter}) {choice}"
        ),
        "lmms_eval": Template(text=f"{{question}}\n{{options}}\n{LETTER}", open=f"{{question}}\n\n{SHORT}"),
        "released": Template(text=f"{{question}}\n{{options}}{LETTER}", open="{question}"),
    }
    published = published_rows("accuracy", (34.9, 35.3, 33.4, 35.9, 37.8))

    split: str = "validation"
    max_new_tokens: int = 128

    def read(self, folder: Path) -> Iterable[Question]:
        """Subjects in the order of their names."""
        files = [file for subject in sorted(DOMAIN_OF) for file in parquet_files(folder / subject, self.split)]
        files = files or parquet_files(folder, self.split)
        if not files:
            raise self.missing(folder, f"{self.split}-*.parquet")
        filled = [check_images(files, f"image_{number}") for number in range(1, NUM_IMAGES + 1)]
        # The image columns are large and read on demand; only which cells are filled is read here.
        for row, fields in enumerate(
            self.parquet_rows(files, ("id", "question", "options", "answer", "question_type"))
        ):
            yield self._question(fields, [column[row] for column in filled])

    def _question(self, row: Mapping[str, Any], filled: Sequence[bool]) -> Question:
        key, options = row["id"], parse_options(self.name, row["id"], row["options"])
        subject = re.fullmatch(r"[^_]+_(.+?)_\d+", key)
        if subject is None or subject.group(1) not in DOMAIN_OF:
            raise ValueError(f"{self.name}: question {key!r} names no subject; expected e.g. validation_Accounting_1.")
        named = {int(number) for number in NUMBERED.findall(" ".join([row["question"], *options]))}
        named = named or {1} & {number for number in range(1, NUM_IMAGES + 1) if filled[number - 1]}
        absent = [number for number in sorted(named) if not 1 <= number <= NUM_IMAGES or not filled[number - 1]]
        if absent:
            raise ValueError(
                f"{self.name}: question {key} names <image {absent[0]}>, and its image_{absent[0]} is empty."
            )
        if str(row["answer"]).strip() in ("", "?"):
            raise ValueError(
                f"{self.name}: question {key} has no answer: this copy of the {self.split} split is from before "
                "2026-02-12, when its answers were published. Download it anew."
            )
        has_choices = row["question_type"] == "multiple-choice"
        answers = (row["answer"],) if has_choices else parse_answers(row["answer"])
        if has_choices and row["answer"] not in LETTERS[: len(options)]:
            raise ValueError(
                f"{self.name}: question {key} has {len(options)} options and the answer {row['answer']!r}."
            )
        return self.question(
            key,
            row["question"],
            choices=options if has_choices else None,
            references=filter(None, answers),
            images=[image_of(row, f"image_{number}") for number in sorted(named)],
            category=subject.group(1),
            split=DOMAIN_OF[subject.group(1)],
        )

    def submission(self, answered: Sequence[tuple[Question, str]]) -> dict[str, str]:
        """By the ids of the questions the letter, empty where none is read, or the final answer to an open one."""
        return {
            question.id: mmmu_letter(output, question.choices) or "" if question.choices else final_answer(output)
            for question, output in answered
        }


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
    return words(options, f"{task}: question {key}: option")


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
