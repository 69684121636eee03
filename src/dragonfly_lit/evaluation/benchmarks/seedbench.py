"""SEED-Bench: the questions about images, of nine kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files
from dragonfly_lit.evaluation.metrics import perception
from dragonfly_lit.evaluation.prompts import LETTER, Template

CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
COLUMNS = ("answer", *CHOICES, "data_type", "question", "question_id", "question_type_id", "image")
KINDS = {
    1: "Scene Understanding", 2: "Instance Identity", 3: "Instance, type 3", 4: "Instance, type 4",
    5: "Instances Counting", 6: "Spatial Relation", 7: "Instance Interaction", 8: "Visual Reasoning",
    9: "Text Understanding",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SEEDBench(Benchmark):
    """Questions about videos, which both layouts have too, are left out. The category is the kind of question."""

    name = "seedbench"
    title = "SEED-Bench, images (Li et al., 2023)"
    original = "SEED-Bench.json and SEED-Bench-image.zip, which is to be unpacked, of AILab-CVC/SEED-Bench"
    hub = ("lmms-lab/SEED-Bench",)
    licence = "CC BY-NC 4.0"
    note = (
        "The paper compares the likelihoods of the choices (scoring=loglikelihood likelihood.of=text); by default the "
        "letter is generated, as in lmms-eval."
    )
    verified = (
        "fields of the original against its own SEED-Bench.py, columns of the hub's copy against lmms-eval 0.7.3's "
        "task and SEED-Bench-2's card, rule and prompt against that task, names of the kinds against public code and "
        "the authors' pages, which disagree on which of types 3 and 4 is attributes and which location; the paper's "
        "19,242 questions are those about images and videos, the number about images was not verified"
    )
    expects = (
        "SEED-Bench.json (questions: answer, choice_a to choice_d, data_id, data_type, question, question_id) and "
        "SEED-Bench-image/, or data/test-*.parquet (the same with image, a list)"
    )
    metric_type = perception.SEEDBench
    parser = "lmms-eval: the first character"
    prompts: ClassVar = dict.fromkeys(
        ("llava", "lmms_eval", "released"), Template(text=f"{{question}}\n{{options}}{LETTER}")
    )

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/SEED-Bench, else the original release."""
        files = parquet_files(folder, "test")
        if files:
            for row in self.parquet_rows(files, COLUMNS[:-1]):
                if row["data_type"] == "image":
                    yield self._question(row, image_of(row, item=0))
            return
        for row in self.read_json(folder, "SEED-Bench.json")["questions"]:
            if row["data_type"] == "image":
                yield self._question(row, image_in(folder, row["data_id"], "SEED-Bench-image", "images"))

    def _question(self, row: Mapping[str, Any], image: Any) -> Question:
        kind = int(row["question_type_id"])
        return self.question(
            row["question_id"],
            row["question"],
            images=[image],
            choices=tuple(str(row[name]) for name in CHOICES),
            references=[row["answer"]],
            category=KINDS.get(kind, str(kind)),
        )
