"""Captions and reports: IU X-Ray, Peir Gross, ROCO and MIMIC-CXR."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.benchmarks.tables import (
    first_existing,
    image_of,
    missing,
    parquet_columns,
    parquet_files,
    parquet_rows,
    read_json,
)
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.caption import Captions


@dataclass(frozen=True, kw_only=True)
class CaptionTask(Task):
    """One caption an image, or one report a study; `instruction` is what the model is asked."""

    splits: ClassVar[tuple[str, ...]] = ("test", "val", "train")
    headline: ClassVar[str] = "rouge_l"
    parser: ClassVar[str] = "none: Penn Treebank words in lower case, without punctuation"

    instruction: str = "Describe the image."
    max_new_tokens: int = 128

    def _question(self, key: str, caption: Any, images: Sequence[Any]) -> Question:
        text = " ".join(str(caption or "").split())
        return Question(
            id=key, task=self.name, text=self.instruction, images=tuple(images), references=(text,) if text else ()
        )

    def _parquet(self, folder: Path) -> Iterable[Question]:
        files = parquet_files(folder, {"val": "validation"}.get(self.split, self.split))
        if not files:
            raise missing(self.source, folder, f"{self.split} split")
        caption = "caption" if "caption" in parquet_columns(files[0]) else "report"
        for number, row in enumerate(parquet_rows(self.source, files, (caption, "image"), ("image_id",))):
            key = str(row.get("image_id") or f"{self.split}-{number:05d}")
            yield self._question(key, row[caption], [image_of(row)])

    def _annotation(self, folder: Path) -> Iterable[Question]:
        for row in read_json(self.source, folder, "annotation.json")[self.split]:
            paths = row["image_path"] if isinstance(row["image_path"], list) else [row["image_path"]]
            images = [first_existing(folder, f"images/{path}", f"files/{path}", path) for path in paths]
            yield self._question(str(row["id"]), row["report"], images)

    def _table(self, folder: Path, table: Path, places: Sequence[str]) -> Iterable[Question]:
        for number, line in enumerate(table.read_text(encoding="utf-8-sig").split("\n"), start=1):
            names, tab, caption = line.partition("\t")
            if line.strip() and not tab:
                raise ValueError(f"{self.name}: {table}: line {number} has no tab between image and caption.")
            if tab:
                images = [first_existing(folder, *(f"{place}{name}" for place in places)) for name in names.split(";")]
                yield self._question(names, caption, images)

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """ROUGE-L, METEOR, CIDEr-D and BLEU."""
        return Captions(questions)


@dataclass(frozen=True, kw_only=True)
class IUXRay(CaptionTask):
    """Chest X-rays with reports, two views a study, in R2Gen's split or bioCaption's."""

    name: ClassVar[str] = "iu_xray"
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    expects: ClassVar[str] = (
        "annotation.json and images/ (R2Gen), or test_images.tsv (image[;image] TAB caption) and iu_xray_images/ "
        "(bioCaption), or data/test-*.parquet (image, caption)"
    )

    instruction: str = "Write the report of this chest X-ray."

    def read(self, folder: Path) -> Iterable[Question]:
        """R2Gen's annotations, else bioCaption's table, else parquet."""
        table = folder / f"{self.split}_images.tsv"
        if (folder / "annotation.json").is_file():
            return self._annotation(folder)
        return self._table(folder, table, ("iu_xray_images/", "images/")) if table.is_file() else self._parquet(folder)


@dataclass(frozen=True, kw_only=True)
class PeirGross(CaptionTask):
    """Photographs of gross pathology with a sentence each, as bioCaption's crawl stores them."""

    name: ClassVar[str] = "peir_gross"
    expects: ClassVar[str] = (
        "test_images.tsv (image TAB caption) and peir_gross_images/, or data/test-*.parquet (image, caption)"
    )

    def read(self, folder: Path) -> Iterable[Question]:
        """bioCaption's table, else parquet."""
        table = folder / f"{self.split}_images.tsv"
        places = ("peir_gross_images/", "images/")
        return self._table(folder, table, places) if table.is_file() else self._parquet(folder)


@dataclass(frozen=True, kw_only=True)
class ROCO(CaptionTask):
    """Figures of radiology papers with their captions."""

    name: ClassVar[str] = "roco"
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"test": (8176,), "val": (8175,), "train": (65423, 65419)}
    expects: ClassVar[str] = (
        "data/test/radiology/testdata.csv (id, name, caption) and data/test/radiology/images/, or data/test-*.parquet "
        "(image, image_id, caption) of eltorio/ROCO-radiology or mdwiratathya/ROCO-radiology"
    )

    def read(self, folder: Path) -> Iterable[Question]:
        """The original release's CSV, else parquet."""
        part = {"val": "validation"}.get(self.split, self.split)
        base = folder / "data" / part / "radiology"
        table = first_existing(base, f"{self.split}data.csv", f"{part}data.csv")
        return self._csv(table) if table.is_file() else self._parquet(folder)

    def _csv(self, table: Path) -> Iterable[Question]:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            for row in csv.DictReader(lines):
                if absent := {"id", "name", "caption"} - set(row):
                    raise ValueError(f"{self.name}: {table} has no column {min(absent)!r}. Expected {self.expects}.")
                yield self._question(row["id"], row["caption"], [table.parent / "images" / row["name"]])


@dataclass(frozen=True, kw_only=True)
class MIMICCXR(CaptionTask):
    """Chest X-rays of an intensive care unit with reports; credentialed, so only a loader of R2Gen's annotations."""

    name: ClassVar[str] = "mimic_cxr"
    expects: ClassVar[str] = (
        "annotation.json (R2Gen) and images/ (or files/) with the paths that it names, or data/test-*.parquet "
        "(image, report)"
    )

    instruction: str = "Write the report of this chest X-ray."

    def read(self, folder: Path) -> Iterable[Question]:
        """R2Gen's annotations, else parquet made of them."""
        return self._annotation(folder) if (folder / "annotation.json").is_file() else self._parquet(folder)
