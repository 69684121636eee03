"""POPE: is there a THING in the image? F1 of yes, by three ways of choosing the things."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, one, parquet_files
from dragonfly_lit.evaluation.metrics import yes_no
from dragonfly_lit.evaluation.published import published_rows

CATEGORIES = ("random", "popular", "adversarial")


@dataclass(frozen=True, kw_only=True)
class POPE(Benchmark):
    """Is there a THING in the image? Three ways of choosing the things; ids are `random-1` and on.

    The release has 2,910 random questions in its first state, which LLaVA-1.5 used, and 3,000 since.
    """

    name = "pope"
    title = "POPE (Li et al., 2023)"
    original = "output/coco of RUCAIBox/POPE, and COCO val2014"
    hub = ("lmms-lab/POPE, default or Full",)
    licence = "MIT (questions); the images are COCO's"
    note = "The random split had 2,910 questions at first, which LLaVA-1.5 used, and has 3,000 now."
    verified = (
        "the original's lines were counted, columns against the hub's card, rules against POPE's script and "
        "lmms-eval 0.7.3"
    )
    expects = (
        "coco_pope_{random,popular,adversarial}.json (JSON lines) and val2014/*.jpg, or data/test-*.parquet, or "
        "Full/random-*.parquet (question_id, question, answer, image_source, image, category) and so on"
    )
    splits = ("test", *CATEGORIES)
    counts: ClassVar = {"test": (9000, 8910), "random": (3000, 2910), "popular": (3000,), "adversarial": (3000,)}
    metric_type = yes_no.POPE
    parser = "POPE: no if No, not or no is a word of the first sentence, else yes"
    published = published_rows(
        "f1", (85.5, 85.9, 86.7, None, 91.2), note="the source does not name its metric; F1 is inferred"
    )

    max_new_tokens: int = 128

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/POPE, whole or by category, else the original release."""
        files = parquet_files(folder, "test")
        parts = CATEGORIES if self.split == "test" else (self.split,)
        if not files:
            files = [file for part in parts for file in parquet_files(folder, part, "Full")]
        if files:
            columns = ("question_id", "question", "answer", "image_source", "category", "image")
            for row in self.parquet_rows(files, columns):
                if row["category"] in parts:
                    image = image_of(row, key=str(row["image_source"]))
                    yield self._question(row["category"], row["question_id"], row["question"], row["answer"], image)
            return
        for part in parts:
            name = f"coco_pope_{part}.json"
            rows = self.read_json(folder, name, f"coco/{name}", f"output/coco/{name}")
            for row in [rows] if isinstance(rows, dict) else rows:
                image = image_in(folder, row["image"], "val2014", "images", "")
                yield self._question(part, row["question_id"], row["text"], row["label"], image)

    def _question(self, part: str, number: Any, text: str, answer: str | None, image: Any) -> Question:
        return self.question(f"{part}-{number}", text, images=[image], references=one(answer), split=part)
