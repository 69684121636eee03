"""CV-Bench: counting, relations, depth and distance on images of three data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files, words
from dragonfly_lit.evaluation.metrics import perception
from dragonfly_lit.evaluation.prompts import LETTER, Template

COLUMNS = ("idx", "type", "task", "choices", "answer", "prompt", "source")
JSON = ("test_2d.jsonl", "test_3d.jsonl")


@dataclass(frozen=True, kw_only=True)
class CVBench(Benchmark):
    """The split is 2D or 3D, the category the task. The text is the data's own prompt, which has the choices."""

    name = "cv_bench"
    title = "CV-Bench (Tong et al., 2024)"
    original = "test_2d.jsonl, test_3d.jsonl and img/ of nyu-visionx/CV-Bench"
    hub = ("nyu-visionx/CV-Bench",)
    licence = "Apache-2.0"
    note = "lmms-eval's prompt begins with a note on the letters to answer with; here LLaVA's instruction follows."
    verified = (
        "file names against the data set's pages, columns, rule and the authors' average against lmms-eval 0.7.3's "
        "task, 2,638 rows against a public index of data sets; that the JSON lines have the same fields, with filename "
        "in place of the image, is inferred"
    )
    counts: ClassVar = {"test": (2638,)}
    expects = (
        "test_2d.parquet and test_3d.parquet, or test.parquet (idx, type, task, choices, answer, prompt, source, "
        "image), or test_2d.jsonl and test_3d.jsonl (the same with filename) and img/"
    )
    listed = "its questions' texts list the choices"
    metric_type = perception.CVBench
    parser = "lmms-eval: the letter in front, behind brackets and white space"
    prompts: ClassVar = dict.fromkeys(("llava", "lmms_eval", "released"), Template(text=f"{{question}}\n{LETTER}"))

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, else the JSON lines."""
        both = [file for part in ("test_2d", "test_3d") for file in parquet_files(folder, part)]
        files = both or parquet_files(folder, "test")
        if files:
            for row in self.parquet_rows(files, COLUMNS):
                yield self._question(row, image_of(row))
            return
        names = [name for name in JSON if (folder / name).is_file()] or ["test.jsonl"]
        for name in names:
            for row in self.read_json(folder, name):
                yield self._question(row, image_in(folder, row["filename"], "", "img"))

    def _question(self, row: Mapping[str, Any], image: Any) -> Question:
        return self.question(
            row["idx"],
            row["prompt"],
            images=[image],
            choices=words(row["choices"], f"question {row['idx']}: choice"),
            references=[row["answer"].strip().strip("()")],
            split=row["type"],
            category=row["task"],
            meta={"source": row["source"]},
        )
