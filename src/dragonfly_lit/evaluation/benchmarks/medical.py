"""Medical VQA: VQA-RAD, SLAKE and Path-VQA; closed questions by accuracy, open ones by token F1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from dragonfly_lit.evaluation.metrics.medical import MedicalVQA


@dataclass(frozen=True, kw_only=True)
class MedicalTask(Task):
    """What the three share. Where the data does not say, a question is closed if its answer is yes or no."""

    headline: ClassVar[str] = "closed_accuracy_llava_med"
    parser: ClassVar[str] = "closed: LLaVA-Med, yes or no in the output and the answer in it; open: words"

    def _question(self, key: str, row: Mapping[str, Any], image: Any, category: str = "") -> Question:
        answer = "" if row["answer"] is None else str(row["answer"]).strip()
        kind = str(row.get("answer_type") or "").strip().lower()
        if kind not in ("open", "closed"):
            kind = "closed" if answer.lower() in ("yes", "no") else "open"
        return Question(
            id=key,
            task=self.name,
            text=row["question"],
            images=(image,),
            references=(answer,) if answer else (),
            category=category,
            split=kind,
            meta={"answer_type": kind},
        )

    def _parquet(self, files: Sequence[Path]) -> Iterable[Question]:
        for number, row in enumerate(parquet_rows(self.source, files, ("question", "answer", "image"))):
            yield self._question(f"{self.split}-{number:05d}", row, image_of(row))

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Closed accuracy and open token scores."""
        return MedicalVQA(questions)


@dataclass(frozen=True, kw_only=True)
class VQARAD(MedicalTask):
    """Radiology questions by clinicians; the original release is one list, split by `phrase_type`."""

    name: ClassVar[str] = "vqa_rad"
    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"test": (451,), "train": (1793, 1797)}
    expects: ClassVar[str] = (
        "`VQA_RAD Dataset Public.json` (or testset.json) and `VQA_RAD Image Folder/` (or images/), or "
        "data/test-*.parquet (image, question, answer) of flaviagiammarino/vqa-rad"
    )

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, which has no answer type, else the original release."""
        files = parquet_files(folder, self.split)
        if files:
            yield from self._parquet(files)
            return
        for row in read_json(self.source, folder, f"{self.split}set.json", "VQA_RAD Dataset Public.json"):
            part = "test" if str(row.get("phrase_type", "")).startswith("test") else "train"
            if (folder / f"{self.split}set.json").is_file() or part == self.split:
                name = row["image_name"]
                image = first_existing(folder, f"VQA_RAD Image Folder/{name}", f"images/{name}", name)
                yield self._question(str(row["qid"]), row, image, str(row.get("question_type") or ""))


@dataclass(frozen=True, kw_only=True)
class SLAKE(MedicalTask):
    """Radiology questions in English and Chinese; English unless `language` says otherwise."""

    name: ClassVar[str] = "slake"
    splits: ClassVar[tuple[str, ...]] = ("test", "validation", "train")
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"test": (1061,), "validation": (1053,), "train": (4919,)}
    expects: ClassVar[str] = (
        "test.json and imgs/NAME/source.jpg (imgs.zip unpacked) of BoKelvin/SLAKE, or data/test-*.parquet (image, "
        "question, answer) of mdwiratathya/SLAKE-vqa-english"
    )

    language: str = "en"
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language not in ("en", "zh", "all"):
            raise ValueError(f"benchmark.language={self.language!r}: slake has en, zh and all.")

    def count_note(self, num_questions: int) -> str | None:
        """Counts are known of the English part only."""
        return super().count_note(num_questions) if self.language == "en" else None

    def read(self, folder: Path) -> Iterable[Question]:
        """The English parquet copy, else the original release."""
        files = parquet_files(folder, self.split)
        if files and self.language == "en":
            yield from self._parquet(files)
            return
        for row in read_json(self.source, folder, f"{self.split}.json", f"{self.split[:5]}.json"):
            if self.language in ("all", row["q_lang"]):
                image = first_existing(folder, f"imgs/{row['img_name']}", row["img_name"])
                yield self._question(str(row["qid"]), row, image, row.get("content_type") or "")

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Closed accuracy, open token scores, and lmms-eval's exact match."""
        return MedicalVQA(questions, slake=True)


@dataclass(frozen=True, kw_only=True)
class PathVQA(MedicalTask):
    """Pathology questions. The original release is pickles, which can run code when read: they are refused."""

    name: ClassVar[str] = "path_vqa"
    splits: ClassVar[tuple[str, ...]] = ("test", "validation", "train")
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "test": (6719, 6761), "validation": (6259, 6279), "train": (19654, 19755),
    }  # fmt: skip
    expects: ClassVar[str] = (
        "data/test-*.parquet (image, question, answer) of flaviagiammarino/path-vqa, or test_qa.jsonl (image, "
        "question, answer) and images/test/NAME.jpg"
    )

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, else the original release with its pickles written out as JSON lines."""
        files = parquet_files(folder, self.split)
        if files:
            yield from self._parquet(files)
            return
        part = {"validation": "val"}.get(self.split, self.split)
        names = [f"{place}{part}_qa.{kind}" for place in ("", f"qas/{part}/") for kind in ("jsonl", "json")]
        pickles = [*folder.glob(f"**/{part}_qa.pkl")]
        if pickles and not any((folder / name).is_file() for name in names):
            raise ValueError(
                f"{self.name}: {pickles[0]} is a pickle, and a pickle can run code when it is read. Use the parquet "
                f"copy (flaviagiammarino/path-vqa), or write its list as {names[0]}, one "
                '{"image": ..., "question": ..., "answer": ...} a line, somewhere you trust it.'
            )
        if not any((folder / name).is_file() for name in names):
            raise missing(self.source, folder, f"{self.split}-*.parquet or {names[0]}")
        for number, row in enumerate(read_json(self.source, folder, *names)):
            image = row["image"] if Path(row["image"]).suffix else f"{row['image']}.jpg"
            yield self._question(
                f"{self.split}-{number:05d}",
                row,
                first_existing(folder, f"images/{part}/{image}", f"images/{image}"),
            )
