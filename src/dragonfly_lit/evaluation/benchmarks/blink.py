"""BLINK: fourteen tasks that people solve in a blink, many of them about several images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import check_images, image_of, parquet_columns, parquet_files, words
from dragonfly_lit.evaluation.metrics import perception
from dragonfly_lit.evaluation.prompts import LETTER, Template

TASKS = (
    "Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw",
    "Multi-view_Reasoning", "Object_Localization", "Relative_Depth", "Relative_Reflectance",
    "Semantic_Correspondence", "Spatial_Relation", "Visual_Correspondence", "Visual_Similarity",
)  # fmt: skip
NUM_IMAGES = 4


@dataclass(frozen=True, kw_only=True)
class BLINK(Benchmark):
    """The category is the task, the text the data's own prompt, which has the choices. The test answers are hidden."""

    name = "blink"
    title = "BLINK (Fu et al., 2024)"
    original = "the same files as on the hub"
    hub = ("BLINK-Benchmark/BLINK, fourteen tasks",)
    licence = "Apache-2.0"
    note = "lmms-eval's prompt begins with a note on the letters to answer with; here LLaVA's instruction follows."
    verified = (
        "columns against the card of Counting, names of the tasks against the authors' evaluate.py, letters of the "
        "rule and the images' columns against lmms-eval 0.7.3's task, the mean of tasks against evaluate.py; the "
        "authors ask GPT-3.5 for the letter; the sizes of its splits were not verified"
    )
    expects = (
        "TASK/val-*.parquet for fourteen tasks (idx, question, image_1 to image_4, choices, answer, prompt), or "
        "data/val-*.parquet of them all (with sub_task)"
    )
    listed = "its questions' texts list the choices"
    splits = ("val", "test")
    metric_type = perception.BLINK
    parser = "lmms-eval: a short line that is a letter, the last after `answer`, the last in brackets, or in front"
    prompts: ClassVar = dict.fromkeys(("llava", "lmms_eval", "released"), Template(text=f"{{question}}\n{LETTER}"))

    split: str = "val"

    def read(self, folder: Path) -> Iterable[Question]:
        """The tasks' files in the order of their names, else the one file."""
        files = [(task, file) for task in TASKS for file in parquet_files(folder / task, self.split)]
        files = files or [("", file) for file in parquet_files(folder, self.split)]
        if not files:
            raise self.missing(folder, f"TASK/{self.split}-*.parquet")
        for task, file in files:
            names = [f"image_{n}" for n in range(1, NUM_IMAGES + 1) if f"image_{n}" in parquet_columns(file)]
            filled = [check_images([file], name) for name in names]
            columns = ("idx", "choices", "answer", "prompt")
            for number, row in enumerate(self.parquet_rows([file], columns, ("sub_task",))):
                there = [name for name, column in zip(names, filled, strict=True) if column[number]]
                yield self._question(task or row["sub_task"], row, there)

    def _question(self, task: str, row: Mapping[str, Any], images: Sequence[str]) -> Question:
        key = str(row["idx"])
        answer = (row["answer"] or "").strip().strip("()")
        return self.question(
            key if key.startswith(self.split) else f"{self.split}_{task}_{key}",
            row["prompt"],
            images=[image_of(row, name) for name in images],
            choices=words(row["choices"], f"question {key}: choice"),
            references=[] if answer in ("", "hidden") else [answer],
            category=task,
        )
