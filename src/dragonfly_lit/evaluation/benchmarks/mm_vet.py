"""MM-Vet: 218 open questions that a judge scores, by the capabilities that they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, one, parquet_files
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.judged import JudgeScore
from dragonfly_lit.evaluation.prompts import Template
from dragonfly_lit.evaluation.published import published_rows

STEP_BY_STEP = (
    "First please perform reasoning, and think step by step to provide best answer to the following question: \n\n"
)


@dataclass(frozen=True, kw_only=True)
class MMVet(Benchmark):
    """The answer keeps its `<AND>` and `<OR>` for the judge; the category is the capabilities, joined by `+`."""

    name = "mm_vet"
    title = "MM-Vet (Yu et al., 2023)"
    original = "mm-vet.zip of yuweihao/MM-Vet"
    hub = ("lmms-lab/MMVet",)
    licence = "CC BY-NC 4.0"
    note = "A judge scores it; evaluate.py writes the requests and reads the scores."
    verified = "columns and count against the hub's card; a judge scores it, so that no rule was compared"
    expects = "mm-vet.json and images/*, or data/test-*.parquet (question_id, question, answer, image, capability)"
    counts: ClassVar = {"test": (218,)}
    metric_type = JudgeScore
    judged = True
    parser = "none: a judge reads the whole output"
    prompts: ClassVar = {"llava": Template(text="{question}"), "lmms_eval": Template(text=STEP_BY_STEP + "{question}")}
    published = published_rows("score", (None, 30.5, 44.8, None, 35.9))

    max_new_tokens: int = 1024

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/MMVet, else `mm-vet.json`."""
        files = parquet_files(folder, "test")
        if files:
            for row in self.parquet_rows(files, ("question_id", "question", "answer", "capability", "image")):
                needs = row["capability"]
                needs = needs.split(",") if isinstance(needs, str) else needs
                yield self._question(str(row["question_id"]), row, needs, image_of(row))
            return
        base = folder / "mm-vet" if (folder / "mm-vet" / "mm-vet.json").is_file() else folder
        for key, row in self.read_json(base, "mm-vet.json").items():
            yield self._question(key, row, row["capability"], image_in(base, row["imagename"], "images"))

    def _question(self, key: str, row: Mapping[str, Any], needs: Sequence[str], image: Any) -> Question:
        kind = "+".join(sorted(need.strip() for need in needs))
        return self.question(key, row["question"], images=[image], references=one(row.get("answer")), category=kind)

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """The mean of the judge's scores."""
        return JudgeScore(questions, judged)
