"""Short answers: TextVQA, VizWiz and GQA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.benchmarks.images import StoredImage
from dragonfly_lit.evaluation.benchmarks.tables import (
    first_existing,
    image_of,
    missing,
    parquet_files,
    parquet_rows,
    read_json,
)
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.evaluation.metrics.vqa import VQAAccuracy


@dataclass(frozen=True, kw_only=True)
class TextVQA(Task):
    """Questions about text in photographs; `ocr=true` puts the words of the data set's OCR system into the prompt."""

    name: ClassVar[str] = "textvqa"
    splits: ClassVar[tuple[str, ...]] = ("validation", "train")
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"validation": (5000,), "train": (34602,)}
    parser: ClassVar[str] = "VQA accuracy on the output as it is"
    expects: ClassVar[str] = (
        "TextVQA_0.5.1_val.json and train_images/IMAGE_ID.jpg (with ocr, TextVQA_Rosetta_OCR_v0.2_val.json), or "
        "data/validation-*.parquet (image_id, question_id, question, answers, ocr_tokens, image)"
    )

    split: str = "validation"
    ocr: bool = False

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/textvqa or facebook/textvqa, else the original release."""
        files = parquet_files(folder, self.split)
        if files:
            columns = ("image_id", "question_id", "question", "answers", "image")
            for row in parquet_rows(self.source, files, (*columns, "ocr_tokens") if self.ocr else columns):
                yield self._question(row, image_of(row, key=row["image_id"]), row.get("ocr_tokens"))
            return
        short = {"validation": "val"}.get(self.split, self.split)
        rows = read_json(self.source, folder, f"TextVQA_0.5.1_{short}.json")["data"]
        tokens: dict[str, list[str]] = {}
        if self.ocr:
            words = read_json(self.source, folder, f"TextVQA_Rosetta_OCR_v0.2_{short}.json")["data"]
            tokens = {entry["image_id"]: entry["ocr_tokens"] for entry in words}
        for row in rows:
            image = first_existing(folder, f"train_images/{row['image_id']}.jpg", f"images/{row['image_id']}.jpg")
            yield self._question(row, image, tokens.get(row["image_id"]))

    def _question(self, row: Mapping[str, Any], image: Path | StoredImage, tokens: Sequence[str] | None) -> Question:
        return Question(
            id=str(row["question_id"]),
            task=self.name,
            text=row["question"],
            images=(image,),
            references=tuple(row["answers"] or ()),
            meta={"ocr_tokens": tuple(tokens or ())} if self.ocr else {},
        )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """VQA accuracy."""
        return VQAAccuracy(questions)


@dataclass(frozen=True, kw_only=True)
class VizWiz(Task):
    """Questions of blind people about their photographs; ids are the image names. The test answers are not public."""

    name: ClassVar[str] = "vizwiz"
    splits: ClassVar[tuple[str, ...]] = ("val", "train")
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"val": (4319,)}
    parser: ClassVar[str] = "VQA accuracy on the output as it is"
    expects: ClassVar[str] = (
        "val.json (or Annotations/val.json) and val/*.jpg, or data/val-*.parquet (question_id, image, question, "
        "answers, category)"
    )

    split: str = "val"

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/VizWiz-VQA, else the original release."""
        files = parquet_files(folder, self.split)
        if files:
            for row in parquet_rows(self.source, files, ("question_id", "question", "answers", "image"), ("category",)):
                yield Question(
                    id=str(row["question_id"]).removesuffix(".jpg"),
                    task=self.name,
                    text=row["question"],
                    references=tuple(row["answers"] or ()),
                    images=(image_of(row),),
                    category=row.get("category") or "",
                )
            return
        for row in read_json(self.source, folder, f"{self.split}.json", f"Annotations/{self.split}.json"):
            name = row["image"]
            image = first_existing(folder, f"{self.split}/{name}", f"images/{name}", name)
            yield Question(
                id=Path(name).stem,
                task=self.name,
                text=row["question"],
                images=(image,),
                references=tuple(entry["answer"] for entry in row.get("answers") or ()),
                category=row.get("answer_type") or "",
            )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """VQA accuracy."""
        return VQAAccuracy(questions)


@dataclass(frozen=True, kw_only=True)
class GQA(Task):
    """Compositional questions about photographs; about 32 questions an image."""

    name: ClassVar[str] = "gqa"
    splits: ClassVar[tuple[str, ...]] = ("testdev",)
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"testdev": (12578,)}
    parser: ClassVar[str] = "LLaVA: lower case without full stops at the end"
    expects: ClassVar[str] = (
        "testdev_balanced_questions.json and images/IMAGE_ID.jpg, or testdev_balanced_instructions/testdev-*.parquet "
        "(id, imageId, question, answer) with testdev_balanced_images/testdev-*.parquet (id, image)"
    )

    split: str = "testdev"

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/GQA, whose images are a table of their own, else the original release."""
        if (folder / "testdev_balanced_questions.json").is_file():
            for key, row in read_json(self.source, folder, "testdev_balanced_questions.json").items():
                yield self._question(key, row, folder / "images" / f"{row['imageId']}.jpg")
            return
        files = parquet_files(folder / "testdev_balanced_instructions", self.split)
        pictures = parquet_files(folder / "testdev_balanced_images", self.split)
        if not files or not pictures:
            raise missing(self.source, folder, "testdev_balanced_questions.json, or the two parquet folders")
        images = {
            row["id"]: image_of(row, key=str(row["id"])) for row in parquet_rows(self.source, pictures, ("id", "image"))
        }
        for row in parquet_rows(self.source, files, ("id", "imageId", "question", "answer"), ("types",)):
            if row["imageId"] not in images:
                raise ValueError(f"{self.name}: question {row['id']}: there is no image {row['imageId']}.")
            yield self._question(str(row["id"]), row, images[row["imageId"]])

    def _question(self, key: str, row: Mapping[str, Any], image: Path | StoredImage) -> Question:
        return Question(
            id=key,
            task=self.name,
            text=row["question"],
            images=(image,),
            references=(row["answer"],) if row.get("answer") else (),
            category=(row.get("types") or {}).get("structural") or "",
        )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Exact match."""
        return ExactMatch(questions)
