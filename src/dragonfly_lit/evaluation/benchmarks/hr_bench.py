"""HR-Bench: photographs of 8,000 pixels, and of 4,000 cut out of them; each question in four orders of its choices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_of, lettered, parquet_files
from dragonfly_lit.evaluation.metrics import highres
from dragonfly_lit.evaluation.prompts import Template

LETTER = "Answer the option letter directly."
COLUMNS = ("index", "question", "answer", "category", "cycle_category", "image")


class HRBench(Benchmark):
    """What the two resolutions share. The category is `single` or `cross`: one object, or several."""

    original = "DreamMr/HR-Bench: a table of text and one of parquet for each resolution"
    hub = ("DreamMr/HR-Bench",)
    licence = "other, whose text the data set leaves empty"
    note = "The authors' scorer asks a language model; lmms-eval's only where its rule finds no letter."
    verified = (
        "columns, file names and 800 rows against the data set's card and files, prompt and rule against lmms-eval "
        "0.7.3's task, the mean over all rows against the authors' hrbench.py"
    )
    counts: ClassVar = {"test": (800,)}
    listed = "its rows are each question in four orders already"
    metric_type = highres.HRBench
    parser = "VLMEvalKit: the only letter that is a word, else the only choice named; no language model is asked"
    prompts: ClassVar = dict.fromkeys(
        ("llava", "lmms_eval", "released"), Template(text=f"{{question}}\n{{options}}{LETTER}")
    )
    files: ClassVar[tuple[str, ...]]
    """Names of the tables, without their suffix."""

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, whose images are base64 like those of the table of text, else that one."""
        circle, last = -1, None
        for row, image in self._rows(folder):
            choices = lettered(row)
            # Rows about one question follow each other, in the order of their cycles.
            same = row["question"], frozenset(choices)
            circle, last = (circle, last) if same == last and str(row["cycle_category"]) != "0" else (circle + 1, same)
            yield self.question(
                row["index"],
                row["question"].strip(),
                images=[image],
                choices=choices,
                references=[row["answer"]],
                category=row["category"],
                meta={"circle": circle},
            )

    def _rows(self, folder: Path) -> Iterator[tuple[Mapping[str, Any], Any]]:
        found = [parquet_files(folder, name) for name in self.files]
        if files := next(filter(None, found), None):
            for row in self.parquet_rows(files, (*COLUMNS, "A", "B"), ("C", "D")):
                yield row, image_of(row)
            return
        tables = [folder / f"{name}.tsv" for name in self.files]
        path = next((path for path in tables if path.is_file()), None)
        if path is None:
            raise self.missing(folder, f"{self.files[0]}.parquet or {self.files[0]}.tsv")
        for row in self.table_rows(path, (*COLUMNS, "A", "B"), "image"):
            yield row, row["image"]


@dataclass(frozen=True, kw_only=True)
class HRBench4K(HRBench):
    """200 questions, each four times, on images of 4,000 pixels."""

    name = "hr_bench_4k"
    title = "HR-Bench 4K (Wang et al., 2024)"
    expects = (
        "hr_bench_4k.parquet or data/hrbench_4k-*.parquet, or hr_bench_4k.tsv (index, question, answer, category, A to "
        "D, cycle_category, image)"
    )
    files: ClassVar = ("hr_bench_4k", "hrbench_4k")


@dataclass(frozen=True, kw_only=True)
class HRBench8K(HRBench):
    """200 questions, each four times, on images of 8,000 pixels."""

    name = "hr_bench_8k"
    title = "HR-Bench 8K (Wang et al., 2024)"
    expects = (
        "hr_bench_8k.parquet or data/hrbench_8k-*.parquet, or hr_bench_8k.tsv (index, question, answer, category, A to "
        "D, cycle_category, image)"
    )
    files: ClassVar = ("hr_bench_8k", "hrbench_8k")
