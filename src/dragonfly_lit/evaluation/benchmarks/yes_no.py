"""Yes-no questions: POPE and MME."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.benchmarks.tables import (
    first_existing,
    image_of,
    missing,
    parquet_files,
    parquet_rows,
    read_json,
)
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.yes_no import COGNITION, MME, PERCEPTION, POPE, mme_pairs

CATEGORIES = ("random", "popular", "adversarial")
EXTENSIONS = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class POPETask(Task):
    """Is there a THING in the image? Three ways of choosing the things; ids are `random-1` and on.

    The release has 2,910 random questions in its first state, which LLaVA-1.5 used, and 3,000 since.
    """

    name: ClassVar[str] = "pope"
    splits: ClassVar[tuple[str, ...]] = ("test", *CATEGORIES)
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "test": (9000, 8910), "random": (3000, 2910), "popular": (3000,), "adversarial": (3000,),
    }  # fmt: skip
    headline: ClassVar[str] = "f1"
    parser: ClassVar[str] = "POPE: no if No, not or no is a word of the first sentence, else yes"
    expects: ClassVar[str] = (
        "coco_pope_{random,popular,adversarial}.json (JSON lines) and val2014/*.jpg, or data/test-*.parquet, or "
        "Full/random-*.parquet (question_id, question, answer, image_source, image, category) and so on"
    )

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/POPE, whole or by category, else the original release."""
        files = parquet_files(folder, "test")
        parts = CATEGORIES if self.split == "test" else (self.split,)
        if not files:
            files = [file for part in parts for file in parquet_files(folder, part, "Full")]
        if files:
            columns = ("question_id", "question", "answer", "image_source", "category", "image")
            for row in parquet_rows(self.source, files, columns):
                if row["category"] in parts:
                    image = image_of(row, key=str(row["image_source"]))
                    yield self._question(row["category"], row["question_id"], row["question"], row["answer"], image)
            return
        for part in parts:
            name = f"coco_pope_{part}.json"
            rows = read_json(self.source, folder, name, f"coco/{name}", f"output/coco/{name}")
            for row in [rows] if isinstance(rows, dict) else rows:
                image = first_existing(folder, *(f"{place}{row['image']}" for place in ("val2014/", "images/", "")))
                yield self._question(part, row["question_id"], row["text"], row["label"], image)

    def _question(self, part: str, number: Any, text: str, answer: str | None, image: Any) -> Question:
        return Question(
            id=f"{part}-{number}",
            task=self.name,
            text=text,
            references=(answer,) if answer else (),
            images=(image,),
            split=part,
        )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """F1 and its companions."""
        return POPE(questions)


@dataclass(frozen=True, kw_only=True)
class MMETask(Task):
    """Two yes-no questions about each image, in fourteen subtasks; a limit keeps pairs whole."""

    name: ClassVar[str] = "mme"
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"test": (2374,)}
    headline: ClassVar[str] = "perception"
    scale: ClassVar[float] = 1.0
    parser: ClassVar[str] = "MME: yes, else no, in the first four letters"
    expects: ClassVar[str] = (
        "SUBTASK/NAME.txt beside SUBTASK/NAME.png (or SUBTASK/questions_answers_YN/NAME.txt and "
        "SUBTASK/images/NAME.jpg), or eval_tool/*/SUBTASK.txt with the images, or data/test-*.parquet (question_id, "
        "image, question, answer, category)"
    )

    def questions(self, data_root: str | Path) -> list[Question]:
        """The questions, with both of each image.

        Raises:
            ValueError: as for every benchmark, and when an image has not exactly two questions.
        """
        everything = replace(self, limit=None)
        found = super(MMETask, everything).questions(data_root)
        pairs = mme_pairs(found)
        if self.limit is None:
            return found
        partner = {row: pair for members in pairs.values() for pair in members for row in pair}
        kept = {row for first in range(min(self.limit, len(found))) for row in partner[first]}
        return [question for row, question in enumerate(found) if row in kept]

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/MME, else the original folders."""
        files = parquet_files(folder, "test")
        seen: Counter[tuple[str, str]] = Counter()
        for subtask, pair, text, answer, image in self._parquet(files) if files else self._original(folder):
            number = seen[subtask, pair]
            seen[subtask, pair] += 1
            yield Question(
                id=f"{subtask}/{pair}#{number}",
                task=self.name,
                text=text,
                references=(answer,) if answer else (),
                images=(image,),
                category=subtask,
                meta={"pair": pair},
            )

    def _parquet(self, files: Sequence[Path]) -> Iterator[tuple[str, str, str, str, Any]]:
        for row in parquet_rows(self.source, files, ("question_id", "question", "answer", "category", "image")):
            pair = str(row["question_id"]).rpartition("/")[2]
            image = image_of(row, key=f"{row['category']}/{pair}")
            yield row["category"], pair, row["question"], row["answer"], image

    def _original(self, folder: Path) -> Iterator[tuple[str, str, str, str, Any]]:
        found = False
        for subtask in (*PERCEPTION, *COGNITION):
            place = folder / subtask
            texts = sorted([*place.glob("*.txt"), *place.glob("questions_answers_YN/*.txt")])
            for path in texts:
                names = [f"{part}{path.stem}{extension}" for part in ("", "images/") for extension in EXTENSIONS]
                image = first_existing(place, *names)
                for text, answer in self._lines(path, 2):
                    found = True
                    yield subtask, image.name, text, answer, image
            for path in () if texts else sorted(folder.glob(f"eval_tool/*/{subtask}.txt"))[:1]:
                for name, text, answer in self._lines(path, 3):
                    found = True
                    yield subtask, name, text, answer, first_existing(place, name, f"images/{name}")
        if not found:
            raise missing(self.source, folder, "subtask with questions")

    def _lines(self, path: Path, columns: int) -> Iterator[list[str]]:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) >= columns:
                yield [field.strip() for field in fields[:columns]]
            elif line.strip():
                raise ValueError(f"{self.name}: {path}: line {number} has {len(fields)} columns; expected {columns}.")

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Points."""
        return MME(questions)
