"""ChartQA: questions about charts, written by people (human) and made from captions (augmented)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.benchmarks.tables import image_of, parquet_columns, parquet_files, parquet_rows, read_json
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.short import RelaxedAccuracy

PARTS = ("human", "augmented")


@dataclass(frozen=True, kw_only=True)
class ChartQA(Task):
    """Relaxed accuracy by part and overall; ids are `human-00000` and on, numbered by part."""

    name: ClassVar[str] = "chartqa"
    splits: ClassVar[tuple[str, ...]] = ("test", "val", "train")
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"test": (2500,), "val": (1920,), "train": (28299,)}
    parser: ClassVar[str] = "relaxed accuracy on the output as it is"
    expects: ClassVar[str] = (
        "test/test_human.json, test/test_augmented.json and test/png/, or data/test-*.parquet (type, question, answer, "
        "image) of lmms-lab/ChartQA, or (image, query, label, human_or_machine) of HuggingFaceM4/ChartQA"
    )

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of either namespace, else the original release."""
        files = parquet_files(folder, self.split)
        found = self._parquet(files) if files else self._original(folder)
        seen: Counter[str] = Counter()
        for part, text, answers, image in found:
            yield Question(
                id=f"{part}-{seen[part]:05d}",
                task=self.name,
                text=text,
                references=answers,
                images=(image,),
                split=part,
            )
            seen[part] += 1

    def _parquet(self, files: Sequence[Path]) -> Iterator[tuple[str, str, tuple[str, ...], Any]]:
        if "query" in parquet_columns(files[0]):
            for row in parquet_rows(self.source, files, ("query", "label", "human_or_machine", "image")):
                yield PARTS[row["human_or_machine"]], row["query"], tuple(map(str, row["label"])), image_of(row)
            return
        for row in parquet_rows(self.source, files, ("type", "question", "answer", "image")):
            yield row["type"].removesuffix("_test"), row["question"], (str(row["answer"]),), image_of(row)

    def _original(self, folder: Path) -> Iterator[tuple[str, str, tuple[str, ...], Any]]:
        for part in PARTS:
            name = f"{self.split}_{part}.json"
            rows = read_json(self.source, folder, f"{self.split}/{name}", name)
            place = folder / self.split if (folder / self.split / name).is_file() else folder
            for row in rows:
                label = row["label"] if isinstance(row["label"], list) else [row["label"]]
                yield part, row["query"], tuple(map(str, label)), place / "png" / row["imgname"]

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Relaxed accuracy."""
        return RelaxedAccuracy(questions)
