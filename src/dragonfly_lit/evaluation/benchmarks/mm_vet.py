"""MM-Vet: 218 open questions that a judge scores, by the capabilities that they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.benchmarks.tables import image_of, parquet_files, parquet_rows, read_json
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.judged import JudgeScore


@dataclass(frozen=True, kw_only=True)
class MMVet(Task):
    """The answer keeps its `<AND>` and `<OR>` for the judge; the category is the capabilities, joined by `+`."""

    name: ClassVar[str] = "mm_vet"
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"test": (218,)}
    headline: ClassVar[str] = "score"
    parser: ClassVar[str] = "none: a judge reads the whole output"
    judged: ClassVar[bool] = True
    expects: ClassVar[str] = (
        "mm-vet.json and images/*, or data/test-*.parquet (question_id, question, answer, image, capability)"
    )

    max_new_tokens: int = 1024

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/MMVet, else `mm-vet.json`."""
        files = parquet_files(folder, "test")
        if files:
            for row in parquet_rows(self.source, files, ("question_id", "question", "answer", "capability", "image")):
                needs = row["capability"]
                needs = needs.split(",") if isinstance(needs, str) else needs
                yield self._question(str(row["question_id"]), row, needs, image_of(row))
            return
        base = folder / "mm-vet" if (folder / "mm-vet" / "mm-vet.json").is_file() else folder
        for key, row in read_json(self.source, base, "mm-vet.json").items():
            yield self._question(key, row, row["capability"], base / "images" / row["imagename"])

    def _question(self, key: str, row: Mapping[str, Any], needs: Sequence[str], image: Any) -> Question:
        return Question(
            id=key,
            task=self.name,
            text=row["question"],
            images=(image,),
            references=(row["answer"],) if row.get("answer") else (),
            category="+".join(sorted(need.strip() for need in needs)),
        )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """The mean of the judge's scores."""
        return JudgeScore(questions, judged)
