"""ChartQA: questions about charts, written by people (human) and made from captions (augmented)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_columns, parquet_files
from dragonfly_lit.evaluation.metrics.short import RelaxedAccuracy
from dragonfly_lit.evaluation.prompts import Template

PARTS = ("human", "augmented")


class ChartQA(Benchmark):
    """Relaxed accuracy by part and overall; ids are `human-00000` and on, numbered by part."""

    name = "chartqa"
    title = "ChartQA (Masry et al., 2022)"
    original = "the `ChartQA Dataset` folder of vis-nlp/ChartQA"
    hub = ("lmms-lab/ChartQA", "HuggingFaceM4/ChartQA")
    licence = "GPL-3.0"
    asked_with = "lmms_eval"  # LLaVA has no prompt for it
    verified = "columns and counts against the cards of both copies, rule against lmms-eval 0.7.3's task"
    expects = (
        "test/test_human.json, test/test_augmented.json and test/png/, or data/test-*.parquet (type, question, answer, "
        "image) of lmms-lab/ChartQA, or (image, query, label, human_or_machine) of HuggingFaceM4/ChartQA"
    )
    splits = ("test", "val", "train")
    counts: ClassVar = {"test": (2500,), "val": (1920,), "train": (28299,)}
    metric_type = RelaxedAccuracy
    parser = "relaxed accuracy on the output as it is"
    prompts: ClassVar = {"lmms_eval": Template(text="{question}\nAnswer the question with a single word.")}

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of either namespace, else the original release."""
        files = parquet_files(folder, self.split)
        numbers: Counter[str] = Counter()
        for part, text, answers, image in self._parquet(files) if files else self._original(folder):
            key = f"{part}-{numbers[part]:05d}"
            yield self.question(key, text, images=[image], references=answers, split=part)
            numbers[part] += 1

    def _parquet(self, files: Sequence[Path]) -> Iterator[tuple[str, str, Sequence[Any], Any]]:
        if "query" in parquet_columns(files[0]):
            for row in self.parquet_rows(files, ("query", "label", "human_or_machine", "image")):
                yield PARTS[row["human_or_machine"]], row["query"], row["label"], image_of(row)
            return
        for row in self.parquet_rows(files, ("type", "question", "answer", "image")):
            yield row["type"].removesuffix("_test"), row["question"], (row["answer"],), image_of(row)

    def _original(self, folder: Path) -> Iterator[tuple[str, str, Sequence[Any], Any]]:
        for part in PARTS:
            name = f"{self.split}_{part}.json"
            place = folder / self.split if (folder / self.split / name).is_file() else folder
            for row in self.read_json(folder, f"{self.split}/{name}", name):
                label = row["label"] if isinstance(row["label"], list) else [row["label"]]
                yield part, row["query"], label, image_in(place, row["imgname"], "png")
