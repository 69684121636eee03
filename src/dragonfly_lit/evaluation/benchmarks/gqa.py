"""GQA: compositional questions about photographs, exact match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, one, parquet_files
from dragonfly_lit.evaluation.metrics.short import ExactMatch


@dataclass(frozen=True, kw_only=True)
class GQA(Benchmark):
    """Compositional questions about photographs; about 32 questions an image."""

    name = "gqa"
    title = "GQA (Hudson and Manning, 2019)"
    original = "testdev_balanced_questions.json and images of its page"
    hub = ("lmms-lab/GQA, testdev_balanced_instructions and testdev_balanced_images",)
    licence = "CC BY 4.0"
    verified = "columns and counts against the hub's viewer, rules against LLaVA's script and lmms-eval 0.7.3"
    expects = (
        "testdev_balanced_questions.json and images/IMAGE_ID.jpg, or testdev_balanced_instructions/testdev-*.parquet "
        "(id, imageId, question, answer) with testdev_balanced_images/testdev-*.parquet (id, image)"
    )
    splits = ("testdev",)
    counts: ClassVar = {"testdev": (12578,)}
    metric_type = ExactMatch
    parser = "LLaVA: lower case without full stops at the end"

    split: str = "testdev"

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/GQA, whose images are a table of their own, else the original release."""
        if (folder / "testdev_balanced_questions.json").is_file():
            for key, row in self.read_json(folder, "testdev_balanced_questions.json").items():
                yield self._question(key, row, image_in(folder, f"{row['imageId']}.jpg", "images"))
            return
        files = parquet_files(folder / "testdev_balanced_instructions", self.split)
        pictures = parquet_files(folder / "testdev_balanced_images", self.split)
        if not files or not pictures:
            raise self.missing(folder, "testdev_balanced_questions.json, or the two parquet folders")
        images = {row["id"]: image_of(row, key=str(row["id"])) for row in self.parquet_rows(pictures, ("id", "image"))}
        for row in self.parquet_rows(files, ("id", "imageId", "question", "answer"), ("types",)):
            if row["imageId"] not in images:
                raise ValueError(f"{self.name}: question {row['id']}: there is no image {row['imageId']}.")
            yield self._question(row["id"], row, images[row["imageId"]])

    def _question(self, key: object, row: Mapping[str, Any], image: Any) -> Question:
        kind = (row.get("types") or {}).get("structural") or ""
        return self.question(key, row["question"], images=[image], references=one(row.get("answer")), category=kind)
