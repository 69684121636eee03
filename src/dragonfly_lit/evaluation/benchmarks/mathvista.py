"""MathVista: mathematics on figures, charts and photographs; choices, whole numbers, decimals and lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, one, parquet_files, words
from dragonfly_lit.evaluation.metrics import mathvista
from dragonfly_lit.evaluation.prompts import LETTER, Template

COLUMNS = (
    "pid", "question", "choices", "unit", "precision", "answer", "question_type", "answer_type", "metadata",
    "decoded_image",
)  # fmt: skip
KINDS = ("text", "integer", "float", "list")
DECIMALS = {1: "one decimal place", 2: "two decimal places"}


@dataclass(frozen=True, kw_only=True)
class MathVista(Benchmark):
    """The category is the task, the split what kind of answer is wanted. The test answers are hidden."""

    name = "mathvista"
    title = "MathVista (Lu et al., 2023)"
    original = "annot_testmini.json (data/testmini.json) and images/ of AI4Math/MathVista"
    hub = ("AI4Math/MathVista",)
    licence = "CC BY-SA 4.0"
    note = (
        "The authors let GPT-4 extract the answer from long outputs. Here the whole output is the answer, so that the "
        "prompt asks for a short one, as lmms-eval's testmini_format does."
    )
    verified = (
        "columns and counts against the data set's card, files against its pages, prompt, extraction without a model "
        "and comparison against lmms-eval 0.7.3's task and the authors' calculate_score.py"
    )
    expects = (
        "annot_testmini.json or data/testmini.json (by pid: question, image, choices, unit, precision, answer, "
        "question_type, answer_type, metadata) and images/, or data/testmini-*.parquet (the same with decoded_image)"
    )
    splits = ("testmini", "test")
    counts: ClassVar = {"testmini": (1000,), "test": (5141,)}
    metric_type = mathvista.MathVista
    parser = "MathVista with the whole output for what GPT-4 would extract: letter or most similar choice, number"
    prompts: ClassVar = dict.fromkeys(
        ("llava", "lmms_eval", "released"),
        Template(text=f"{{question}}\n{{options}}{LETTER}", open="{question}\n{context}", context="{hint}"),
    )

    split: str = "testmini"
    max_new_tokens: int = 32

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of AI4Math/MathVista, else the original release."""
        files = parquet_files(folder, self.split)
        if files:
            for row in self.parquet_rows(files, COLUMNS):
                yield self._question(row["pid"], row, image_of(row, "decoded_image"))
            return
        names = (f"annot_{self.split}.json", f"data/{self.split}.json", f"{self.split}.json")
        for key, row in self.read_json(folder, *names).items():
            yield self._question(key, row, image_in(folder, row["image"], "", "data", "images"))

    def _question(self, key: str, row: Mapping[str, Any], image: Any) -> Question:
        kind, unit = row["answer_type"], row.get("unit")
        if kind not in KINDS:
            raise ValueError(f"{self.name}: question {key} has the answer_type {kind!r}; known are {', '.join(KINDS)}.")
        precision = int(row["precision"] or 0)
        choices = words(row["choices"], f"question {key}: choice") if row.get("choices") else None
        return self.question(
            key,
            f"{row['question']} (Unit: {unit})" if unit else row["question"],
            images=[image],
            choices=choices,
            references=one(row.get("answer")),
            split=kind,
            category=(row.get("metadata") or {}).get("task") or "",
            meta={"kind": kind, "precision": precision, "hint": "" if choices else _wanted(kind, precision)},
        )


def _wanted(kind: str, precision: int) -> str:
    """How to answer, in the words of lmms-eval's short form."""
    if kind == "integer":
        return "Answer the question using a single integer number."
    if kind == "float":
        places = DECIMALS.get(precision, f"{precision} decimal places")
        return f"Answer the question using a single floating-point number with {places}."
    return "Answer the question using a Python list."
