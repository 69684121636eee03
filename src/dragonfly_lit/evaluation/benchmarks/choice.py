"""Multiple choice: AI2D and ScienceQA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.benchmarks.tables import (
    check_images,
    image_of,
    missing,
    parquet_files,
    parquet_rows,
    read_json,
)
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.choice import MultipleChoice
from dragonfly_lit.evaluation.metrics.choice import ScienceQA as ScienceQAAccuracy
from dragonfly_lit.evaluation.parsers import LETTERS


@dataclass(frozen=True, kw_only=True)
class AI2D(Task):
    """Diagrams of school science; the original release is read by its `ai2d_test_ids.csv`, or whole without it."""

    name: ClassVar[str] = "ai2d"
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"test": (3088,)}
    parser: ClassVar[str] = "lmms-eval: letter and full stop in front, else the whole output"
    expects: ClassVar[str] = (
        "data/test-*.parquet (question, options, answer, image) or questions/*.json with images/ and ai2d_test_ids.csv"
    )

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/ai2d (or of Efficient-Large-Model/ai2d-no-mask), else AI2's own release."""
        files = parquet_files(folder, "test")
        if files:
            for row, fields in enumerate(parquet_rows(self.source, files, ("question", "options", "answer", "image"))):
                yield self._question(
                    f"test-{row:05d}", fields["question"], fields["options"], fields["answer"], (image_of(fields),)
                )
            return
        if not (folder / "questions").is_dir():
            raise missing(self.source, folder, "data/test-*.parquet or questions/")
        test_ids = folder / "ai2d_test_ids.csv"
        wanted = set(test_ids.read_text(encoding="utf-8").split()) if test_ids.is_file() else None
        for path in sorted((folder / "questions").glob("*.json")):
            diagram = read_json(self.source, folder, f"questions/{path.name}")
            image = diagram["imageName"]
            if wanted is not None and not {image, Path(image).stem} & wanted:
                continue
            for text, fields in diagram["questions"].items():
                place = (
                    "abc_images" if fields.get("abcLabel") and (folder / "abc_images" / image).is_file() else "images"
                )
                yield self._question(
                    str(fields["questionId"]),
                    text,
                    fields["answerTexts"],
                    fields["correctAnswer"],
                    (folder / place / image,),
                )

    def _question(self, key: str, text: str, options: Sequence[Any], answer: Any, images: tuple) -> Question:
        return Question(
            id=key,
            task=self.name,
            text=text,
            images=images,
            choices=tuple(map(str, options)),
            references=(letter_of(self.name, key, int(answer), options),),
        )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Accuracy of the letter."""
        return MultipleChoice(questions)


@dataclass(frozen=True, kw_only=True)
class ScienceQA(Task):
    """School science with or without an image; `subset=img` keeps the questions with one."""

    name: ClassVar[str] = "scienceqa"
    splits: ClassVar[tuple[str, ...]] = ("test", "val", "minival", "minitest")
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "test": (4241, 2017), "val": (4241,), "minival": (424,), "minitest": (424,),
    }  # fmt: skip
    parser: ClassVar[str] = "LLaVA: the letter, `X. ` in front, or one `The answer is X.`"
    expects: ClassVar[str] = (
        "problems.json, pid_splits.json and images/SPLIT/ID/image.png, or ScienceQA-FULL/test-*.parquet "
        "(image, question, choices, answer, hint), or data/test-*.parquet of derek-thomas/ScienceQA"
    )

    subset: str = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset not in ("full", "img"):
            raise ValueError(f"benchmark.subset={self.subset!r}: scienceqa has full and img.")

    def read(self, folder: Path) -> Iterable[Question]:
        """The original release where it lies, else parquet."""
        questions = self._original(folder) if (folder / "problems.json").is_file() else self._parquet(folder)
        return (question for question in questions if self.subset == "full" or question.images)

    def _original(self, folder: Path) -> Iterable[Question]:
        problems, splits = (
            read_json(self.source, folder, "problems.json"),
            read_json(self.source, folder, "pid_splits.json"),
        )
        for key in splits[self.split]:
            fields = problems.get(key)
            if fields is None:
                raise ValueError(f"{self.name}: pid_splits.json lists {key}, which problems.json does not have.")
            place = {"minival": "val", "minitest": "test"}.get(self.split, self.split)
            images = (folder / "images" / place / key / fields["image"],) if fields.get("image") else ()
            yield self._question(key, fields, images)

    def _parquet(self, folder: Path) -> Iterable[Question]:
        split = {"val": "validation"}.get(self.split, self.split)
        configs = ("ScienceQA-FULL",) if self.subset == "full" else ("ScienceQA-FULL", "ScienceQA-IMG")
        files = parquet_files(folder, split, *configs)
        if not files:
            raise missing(self.source, folder, f"problems.json or {split}-*.parquet")
        columns = ("question", "choices", "answer", "hint", "image")
        filled = check_images(files)
        for row, fields in enumerate(parquet_rows(self.source, files, columns, ("subject",))):
            yield self._question(f"{self.split}-{row:05d}", fields, (image_of(fields),) if filled[row] else ())

    def _question(self, key: str, fields: Mapping[str, Any], images: tuple) -> Question:
        return Question(
            id=key,
            task=self.name,
            text=fields["question"],
            images=images,
            choices=tuple(map(str, fields["choices"])),
            references=(letter_of(self.name, key, int(fields["answer"]), fields["choices"]),),
            category=fields.get("subject") or "",
            split="image" if images else "text",
            meta={"hint": fields.get("hint") or ""},
        )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Accuracy of the letter; `accuracy/image` is LLaVA's IMG accuracy."""
        return ScienceQAAccuracy(questions)


def letter_of(task: str, key: str, index: int, options: Sequence[Any]) -> str:
    """The letter of choice `index`; ValueError when there is no such choice."""
    if not 0 <= index < len(options):
        raise ValueError(f"{task}: question {key} has {len(options)} choices, and the answer is number {index} from 0.")
    return LETTERS[index]
