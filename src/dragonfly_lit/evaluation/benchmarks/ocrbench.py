"""OCRBench: 1,000 questions about text, from single words to forms and handwritten formulas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files
from dragonfly_lit.evaluation.metrics import highres
from dragonfly_lit.evaluation.prompts import Template

RECOGNITION = frozenset(
    {
        "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition",
        "Handwriting Recognition", "Digit String Recognition", "Non-Semantic Text Recognition",
    }
)  # fmt: skip
"""Kinds that the authors sum up as text recognition."""
FORMULAS = "HME100k"
"""The data set whose answers are compared without spaces and by case."""


@dataclass(frozen=True, kw_only=True)
class OCRBench(Benchmark):
    """Ids are the numbers of the rows, the same in both layouts. The category is the kind of text."""

    name = "ocrbench"
    title = "OCRBench (Liu et al., 2023)"
    original = "OCRBench.json of Yuliang-Liu/MultimodalOCR and OCRBench_Images"
    hub = ("echo840/OCRBench",)
    licence = "not stated by the release; its images come from thirty data sets"
    verified = (
        "fields of the original in its own OCRBench.json, columns and 1,000 rows of the hub's copy against its card "
        "and the script that made it, rule against the authors' example.py and lmms-eval 0.7.3's task"
    )
    expects = (
        "OCRBench.json (dataset_name, image_path, question, answers, type) and OCRBench_Images/, or "
        "data/test-*.parquet (dataset, question, question_type, answer, image)"
    )
    counts: ClassVar = {"test": (1000,)}
    metric_type = highres.OCRBench
    parser = "OCRBench: an answer in the output, in lower case; formulas without spaces"
    prompts: ClassVar = dict.fromkeys(("llava", "lmms_eval", "released"), Template(text="{question}"))

    max_new_tokens: int = 128

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of echo840/OCRBench, else the original release."""
        files = parquet_files(folder, "test")
        rows = self._parquet(files) if files else self._original(folder)
        for number, (source, text, answers, kind, image) in enumerate(rows):
            yield self.question(
                f"{number:04d}",
                text,
                images=[image],
                references=[answers] if isinstance(answers, str) else answers,
                category=kind,
                split="Text Recognition" if kind in RECOGNITION else "",
                meta={"formula": source == FORMULAS},
            )

    def _parquet(self, files: list[Path]) -> Iterator[tuple[str, str, Any, str, Any]]:
        for row in self.parquet_rows(files, ("dataset", "question", "question_type", "answer", "image")):
            yield row["dataset"], row["question"], row["answer"], row["question_type"], image_of(row)

    def _original(self, folder: Path) -> Iterator[tuple[str, str, Any, str, Any]]:
        for row in self.read_json(folder, "OCRBench.json", "json_files/OCRBench.json", "OCRBench/OCRBench.json"):
            image = image_in(folder, row["image_path"], "OCRBench_Images", "images", "")
            yield row["dataset_name"], row["question"], row["answers"], row["type"], image
