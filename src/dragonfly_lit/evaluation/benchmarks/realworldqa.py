"""RealWorldQA: photographs from cars and of other scenes; a letter, a number or a word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, one, parquet_files
from dragonfly_lit.evaluation.metrics import perception
from dragonfly_lit.evaluation.prompts import Template


@dataclass(frozen=True, kw_only=True)
class RealWorldQA(Benchmark):
    """Ids are the numbers of the rows. Questions hold their choices and say how to answer."""

    name = "realworldqa"
    title = "RealWorldQA (xAI, 2024)"
    original = "annotations.json and images/ of xAI's archive"
    hub = ("xai-org/RealworldQA", "lmms-lab/RealWorldQA")
    licence = "CC BY-ND 4.0"
    verified = (
        "columns and 765 rows against the data set's card, fields of the original against public code that reads it, "
        "prompt and rule against lmms-eval 0.7.3's task"
    )
    expects = "annotations.json (image, question, answer) and images/, or data/test-*.parquet (image, question, answer)"
    counts: ClassVar = {"test": (765,)}
    metric_type = perception.RealWorldQA
    parser = "lmms-eval: its shared rule for letters; else the output but for case and full stops at its end"
    prompts: ClassVar = dict.fromkeys(("llava", "lmms_eval", "released"), Template(text="{question}"))

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, else the original release."""
        files = parquet_files(folder, "test") or parquet_files(folder, "test_0412")
        rows = (
            ((row, image_of(row)) for row in self.parquet_rows(files, ("question", "answer", "image")))
            if files
            else (
                (row, image_in(folder, row["image"], "images", ""))
                for row in self.read_json(folder, "annotations.json", "images/metadata.jsonl")
            )
        )
        for number, (row, image) in enumerate(rows):
            answer = row["answer"]
            key, kind = f"{number:04d}", "choice" if answer.strip().upper() in tuple("ABCD") else "open"
            yield self.question(key, row["question"], images=[image], references=one(answer), category=kind)
