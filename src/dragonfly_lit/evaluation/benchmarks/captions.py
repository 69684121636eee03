"""Captions and reports: IU X-Ray, Peir Gross, ROCO and MIMIC-CXR."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import (
    first_existing,
    image_in,
    image_of,
    one,
    parquet_columns,
    parquet_files,
    word,
)
from dragonfly_lit.evaluation.metrics.caption import WORDS, Captions
from dragonfly_lit.evaluation.prompts import Template
from dragonfly_lit.evaluation.published import BLOG, PublishedRow

MODELS = ("BiomedGPT", "best published before", "Dragonfly-Med v1")
METEORS = ("meteor_nltk", "meteor_nltk_no_wordnet", "meteor_1_5")
WHICH = "the source does not say which METEOR it computed"
"""So its numbers stand beside the one that was asked for."""


def _rows(*values: tuple[float, float, float]) -> tuple[PublishedRow, ...]:
    """The blog post's numbers of `MODELS`: ROUGE-L, METEOR and CIDEr."""
    return tuple(
        PublishedRow(metric=metric, model=model, value=value, source=BLOG, note=WHICH if metric in METEORS else "")
        for model, (rouge, meteor, cider) in zip(MODELS, values, strict=True)
        for metric, value in (("rouge_l", rouge), *((name, meteor) for name in METEORS), ("cider_d", cider))
    )


@dataclass(frozen=True, kw_only=True)
class CaptionBenchmark(Benchmark):
    """One caption an image, or one report a study; `instruction` is the question."""

    splits = ("test", "val", "train")
    metric_type = Captions
    parser = WORDS
    prompts: ClassVar = dict.fromkeys(("llava", "lmms_eval"), Template(text="{question}"))

    instruction: str = "Describe the image."
    max_new_tokens: int = 128

    def _question(self, key: object, caption: Any, images: Sequence[Any]) -> Question:
        text = " ".join(word("" if caption is None else caption, f"caption of {key}").split())
        return self.question(key, self.instruction, images=images, references=one(text))

    def _parquet(self, folder: Path) -> Iterable[Question]:
        files = parquet_files(folder, {"val": "validation"}.get(self.split, self.split))
        if not files:
            raise self.missing(folder, f"{self.split} split")
        caption = "caption" if "caption" in parquet_columns(files[0]) else "report"
        for number, row in enumerate(self.parquet_rows(files, (caption, "image"), ("image_id",))):
            key = str(row.get("image_id") or f"{self.split}-{number:05d}")
            yield self._question(key, row[caption], [image_of(row)])

    def _annotation(self, folder: Path) -> Iterable[Question]:
        for row in self.read_json(folder, "annotation.json")[self.split]:
            paths = row["image_path"] if isinstance(row["image_path"], list) else [row["image_path"]]
            images = [image_in(folder, path, "images", "files", "") for path in paths]
            yield self._question(row["id"], row["report"], images)

    def _table(self, table: Path, places: Sequence[str]) -> Iterable[Question]:
        for number, line in enumerate(self.read_text(table).split("\n"), start=1):
            names, tab, caption = line.partition("\t")
            if line.strip() and not tab:
                raise ValueError(f"{self.name}: {table}: line {number} has no tab between image and caption.")
            if tab:
                images = [image_in(table.parent, name, *places) for name in names.split(";")]
                yield self._question(names, caption, images)

    def _table_or_parquet(self, folder: Path, *places: str) -> Iterable[Question]:
        """bioCaption's table with its images in one of `places`, else parquet."""
        table = folder / f"{self.split}_images.tsv"
        return self._table(table, places) if table.is_file() else self._parquet(folder)


@dataclass(frozen=True, kw_only=True)
class IUXRay(CaptionBenchmark):
    """Chest X-rays with reports, two views a study, in R2Gen's split or bioCaption's."""

    name = "iu_xray"
    title = "IU X-Ray (Demner-Fushman et al., 2016)"
    original = "R2Gen's annotation.json and images, or bioCaption's"
    licence = "CC BY-NC-ND 4.0 (OpenI)"
    verified = (
        "fields of annotation.json (by split: id, image_path, report) against R2Gen's modules/datasets.py, rule "
        "against pycocoevalcap; bioCaption's table and the sizes of the splits were not verified"
    )
    expects = (
        "annotation.json and images/ (R2Gen), or test_images.tsv (image[;image] TAB caption) and iu_xray_images/ "
        "(bioCaption), or data/test-*.parquet (image, caption)"
    )
    published = _rows((28.5, 12.9, 40.1), (44.8, 24.2, 43.5), (28.5, 29.7, 58.8))

    instruction: str = "Write the report of this chest X-ray."

    def read(self, folder: Path) -> Iterable[Question]:
        """R2Gen's annotations, else bioCaption's table, else parquet."""
        if (folder / "annotation.json").is_file():
            return self._annotation(folder)
        return self._table_or_parquet(folder, "iu_xray_images/", "images/")


@dataclass(frozen=True, kw_only=True)
class PeirGross(CaptionBenchmark):
    """Photographs of gross pathology with a sentence each, as bioCaption's crawl stores them."""

    name = "peir_gross"
    title = "PEIR Gross (Jing et al., 2018)"
    original = "bioCaption's crawl of the PEIR library"
    verified = "rule against pycocoevalcap; the table (image TAB caption) and its size were not verified"
    expects = "test_images.tsv (image TAB caption) and peir_gross_images/, or data/test-*.parquet (image, caption)"
    published = _rows((36.0, 15.4, 122.7), (36.0, 15.4, 122.7), (40.3, 38.3, 179.9))

    max_new_tokens: int = 64

    def read(self, folder: Path) -> Iterable[Question]:
        """bioCaption's table, else parquet."""
        return self._table_or_parquet(folder, "peir_gross_images/", "images/")


@dataclass(frozen=True, kw_only=True)
class ROCO(CaptionBenchmark):
    """Figures of radiology papers with their captions."""

    name = "roco"
    title = "ROCO (Pelka et al., 2018)"
    original = "razorx89/roco-dataset"
    hub = ("eltorio/ROCO-radiology", "mdwiratathya/ROCO-radiology")
    licence = "of each article in PubMed Central"
    verified = (
        "columns and counts of the hub's copies against their cards, rule against pycocoevalcap; the original's own "
        "counts (8,179 and 8,180 captions) were not verified"
    )
    expects = (
        "data/test/radiology/captions.txt (id TAB caption) and data/test/radiology/images/ID.jpg, or testdata.csv (id, "
        "name, caption) in its place, or data/test-*.parquet (image, image_id, caption) of eltorio/ROCO-radiology or "
        "mdwiratathya/ROCO-radiology"
    )
    counts: ClassVar = {"test": (8176, 8179), "val": (8175, 8180), "train": (65423, 65419)}
    published = _rows((18.2, 7.8, 24.2), (18.2, 7.8, 24.2), (19.3, 15.1, 40.1))

    max_new_tokens: int = 64

    def read(self, folder: Path) -> Iterable[Question]:
        """The original release's captions, a table of them, else parquet."""
        part = {"val": "validation"}.get(self.split, self.split)
        base = folder / "data" / part / "radiology"
        if (base / "captions.txt").is_file():
            return self._lines(base / "captions.txt")
        table = first_existing(base, f"{self.split}data.csv", f"{part}data.csv")
        return self._csv(table) if table.is_file() else self._parquet(folder)

    def _lines(self, table: Path) -> Iterable[Question]:
        for number, line in enumerate(self.read_text(table).split("\n"), start=1):
            key, tab, caption = line.partition("\t")
            if line.strip() and not tab:
                raise ValueError(f"{self.name}: {table}: line {number} has no tab between id and caption.")
            if tab:
                names = [f"{key.strip()}{extension}" for extension in (".jpg", ".jpeg", ".png")]
                images = [image_in(table.parent, name, "images") for name in names]
                image = next((path for path in images if path.is_file()), images[0])
                yield self._question(key.strip(), caption, [image])

    def _csv(self, table: Path) -> Iterable[Question]:
        for number, row in enumerate(csv.DictReader(StringIO(self.read_text(table), newline="")), start=1):
            if absent := {"id", "name", "caption"} - set(row):
                raise ValueError(f"{self.name}: {table} has no column {min(absent)!r}. Expected {self.expects}.")
            if None in row:
                raise ValueError(
                    f"{self.name}: {table}: row {number} has more fields than columns: is a quote missing?"
                )
            yield self._question(row["id"], row["caption"], [image_in(table.parent, row["name"], "images")])


@dataclass(frozen=True, kw_only=True)
class MIMICCXR(CaptionBenchmark):
    """Chest X-rays of an intensive care unit with reports; credentialed, so only a loader of R2Gen's annotations."""

    name = "mimic_cxr"
    title = "MIMIC-CXR (Johnson et al., 2019)"
    original = "PhysioNet, for credentialed users; R2Gen's annotation.json"
    licence = "PhysioNet credentialed health data licence"
    verified = (
        "fields of annotation.json (by split: id, image_path, report) against R2Gen's modules/datasets.py, rule "
        "against pycocoevalcap; the data were not seen, and their sizes were not verified"
    )
    note = "Not redistributable: neither the images nor the reports may leave your machine, a hosted judge included."
    expects = (
        "annotation.json (R2Gen) and images/ (or files/) with the paths that it names, or data/test-*.parquet "
        "(image, report)"
    )
    published = _rows((23.8, 14.2, 14.7), (33.5, 19.0, 50.9), (24.2, 22.6, 47.2))

    instruction: str = "Write the report of this chest X-ray."

    def read(self, folder: Path) -> Iterable[Question]:
        """R2Gen's annotations, else parquet made of them."""
        return self._annotation(folder) if (folder / "annotation.json").is_file() else self._parquet(folder)
