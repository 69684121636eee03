"""Medical VQA: VQA-RAD, SLAKE and Path-VQA; closed questions by accuracy, open ones by token F1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, one, parquet_columns, parquet_files, word
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.medical import MedicalVQA
from dragonfly_lit.evaluation.published import ABSTRACT, BLOG, PublishedRow, published_rows
from dragonfly_lit.spec.medical_vqa import answer_type, vqa_rad_split

MODELS = ("LLaVA-Med", "Med-Gemini", "best published before", "Dragonfly-Med v1")
V2 = ("Dragonfly-Med v2",)


KINDS = ("content_type", "question_type")
OPTIONAL = ("answer_type", "q_lang", *KINDS)
"""Columns that some parquet copies have."""
UNTOLD = "the source does not say how a closed answer is read"
ALL_CLOSED = f"{UNTOLD}; of all closed questions, since LLaVA-Med's released rule gives the gold answers 85.34"
"""416 English closed questions of the test file, of which 61 are not about yes and no."""


def _closed(
    *values: float | None, models: Sequence[str] = MODELS, source: str = BLOG, note: str = UNTOLD
) -> tuple[PublishedRow, ...]:
    return published_rows("closed_accuracy", values, models=models, source=source, note=note)


def _open(*values: float | None, models: Sequence[str] = MODELS, source: str = BLOG) -> tuple[PublishedRow, ...]:
    note = "the source does not publish the normalisation of its token F1"
    return published_rows("open_f1_squad", values, models=models, source=source, note=note)


@dataclass(frozen=True, kw_only=True)
class MedicalBenchmark(Benchmark):
    """What the three share: closed accuracy and open token scores, each of them a split."""

    metric_type = MedicalVQA
    parser = "closed: LLaVA-Med for yes and no, else the answer among the words; open: words"

    max_new_tokens: int = 32

    def _question(self, key: str, row: Mapping[str, Any], image: Any, category: str = "") -> Question:
        answer = "" if row["answer"] is None else word(row["answer"], f"answer of question {key}").strip()
        kind = answer_type(answer, row.get("answer_type"))
        return self.question(
            key,
            row["question"],
            images=[image],
            references=one(answer),
            category=category,
            split=kind,
            meta={"answer_type": kind},
        )

    def _parquet(self, files: Sequence[Path]) -> Iterable[Question]:
        """The rows of a copy; its answer types are read where it has some."""
        for number, row in enumerate(self.parquet_rows(files, ("question", "answer", "image"), OPTIONAL)):
            if self._wanted(row):
                category = next((row[name] for name in KINDS if row.get(name)), "")
                yield self._question(f"{self.split}-{number:05d}", row, image_of(row), category)

    def _wanted(self, row: Mapping[str, Any]) -> bool:
        return True


class VQARAD(MedicalBenchmark):
    """Radiology questions by clinicians; the original release is one list, split by `phrase_type`."""

    name = "vqa_rad"
    title = "VQA-RAD (Lau et al., 2018)"
    original = "the OSF archive: a JSON list and a folder of images"
    hub = ("flaviagiammarino/vqa-rad",)
    licence = "CC0 1.0"
    note = "The hub copy has no answer types: there, closed means that the answer is yes or no."
    verified = "columns and counts of the hub's copy against its card, rules against LLaVA-Med's released scripts"
    expects = (
        "`VQA_RAD Dataset Public.json` (or testset.json) and `VQA_RAD Image Folder/` (or images/), or "
        "data/test-*.parquet (image, question, answer) of flaviagiammarino/vqa-rad"
    )
    splits = ("test", "train")
    counts: ClassVar = {"test": (451,), "train": (1793, 1797)}
    published = _closed(84.2, 69.7, 87.1, 77.4) + _open(None, 50.1, 62.1, 59.6)

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, which has no answer type, else the original release."""
        files = parquet_files(folder, self.split)
        if files:
            yield from self._parquet(files)
            return
        for row in self.read_json(folder, f"{self.split}set.json", "VQA_RAD Dataset Public.json"):
            if (folder / f"{self.split}set.json").is_file() or vqa_rad_split(row) == self.split:
                name = row["image_name"]
                image = image_in(folder, name, "VQA_RAD Image Folder", "images", "")
                yield self._question(row["qid"], row, image, str(row.get("question_type") or ""))


@dataclass(frozen=True, kw_only=True)
class SLAKE(MedicalBenchmark):
    """Radiology questions in English and Chinese; English unless `language` says otherwise."""

    name = "slake"
    title = "SLAKE (Liu et al., 2021)"
    original = "test.json and imgs.zip, which is to be unpacked"
    hub = ("BoKelvin/SLAKE (the original)", "mdwiratathya/SLAKE-vqa-english")
    licence = "CC BY 4.0"
    verified = (
        "fields and English counts against the original's card, rules against LLaVA-Med's scripts and lmms-eval 0.7.3"
    )
    expects = (
        "test.json and imgs/NAME/source.jpg (imgs.zip unpacked) of BoKelvin/SLAKE, or data/test-*.parquet (image, "
        "question, answer) of mdwiratathya/SLAKE-vqa-english"
    )
    splits = ("test", "validation", "train")
    counts: ClassVar = {"test": (1061,), "validation": (1053,), "train": (4919,)}
    published = (
        _closed(83.2, 84.8, 91.6, 90.4, note=ALL_CLOSED)
        + _open(None, 75.8, 89.3, 88.8)
        + _closed(91.6, models=V2, source=ABSTRACT, note=ALL_CLOSED)
    )

    language: str = "en"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language not in ("en", "zh", "all"):
            raise ValueError(f"benchmark.language={self.language!r}: slake has en, zh and all.")

    def count_note(self, num_questions: int) -> str | None:
        """Counts are known of the English part only."""
        return super().count_note(num_questions) if self.language == "en" else None

    def read(self, folder: Path) -> Iterable[Question]:
        """A parquet copy (English, unless it says of each question in which language it is), else the original."""
        files = parquet_files(folder, self.split)
        if files and (self.language == "en" or "q_lang" in parquet_columns(files[0])):
            yield from self._parquet(files)
            return
        for row in self.read_json(folder, f"{self.split}.json", f"{self.split[:5]}.json"):
            if self._wanted(row):
                image = image_in(folder, row["img_name"], "imgs", "")
                yield self._question(row["qid"], row, image, row.get("content_type") or "")

    def _wanted(self, row: Mapping[str, Any]) -> bool:
        # Copies in one language do not say which: all of it is read.
        return self.language in ("all", row.get("q_lang") or self.language)

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Closed accuracy, open token scores, and lmms-eval's exact match."""
        return MedicalVQA(questions, slake=True)


class PathVQA(MedicalBenchmark):
    """Pathology questions. The original release is pickles, which can run code when read: they are refused."""

    name = "path_vqa"
    title = "PathVQA (He et al., 2020)"
    original = "pickles, which are not read because they can run code, and images"
    hub = ("flaviagiammarino/path-vqa",)
    licence = "MIT"
    verified = (
        "columns and counts of the hub's copy against its card, rules against LLaVA-Med's; the original's counts "
        "are from memory"
    )
    expects = (
        "data/test-*.parquet (image, question, answer) of flaviagiammarino/path-vqa, or test_qa.jsonl (image, "
        "question, answer) and images/test/NAME.jpg"
    )
    splits = ("test", "validation", "train")
    counts: ClassVar = {"test": (6719, 6761), "validation": (6259, 6279), "train": (19654, 19755)}
    published = (
        _closed(91.7, 83.3, 91.7, 92.3) + _open(None, 58.7, 62.7, 67.6) + _open(67.1, models=V2, source=ABSTRACT)
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
            raise self.missing(folder, f"{self.split}-*.parquet or {names[0]}")
        for number, row in enumerate(self.read_json(folder, *names)):
            image = row["image"] if Path(row["image"]).suffix else f"{row['image']}.jpg"
            path = image_in(folder, image, f"images/{part}", "images")
            yield self._question(f"{self.split}-{number:05d}", row, path)
