"""V*Bench: small objects in large photographs, their attributes and where they are; four or two choices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files
from dragonfly_lit.evaluation.metrics.highres import VStar
from dragonfly_lit.evaluation.prompts import LETTER, Template

CHOICE = re.compile(r"^\(([A-Z])\) ?(.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class VStarBench(Benchmark):
    """Questions about an object, or about two, on photographs of about 2,000 pixels a side.

    In the original layout a JSON file beside each image has the boxes of the objects that are asked about, so that the
    report can break down by their size and say whether their crops were selected.
    """

    name = "vstar"
    title = "V*Bench (Wu and Xie, 2023)"
    original = "craigwu/vstar_bench: test_questions.jsonl and the folders direct_attributes and relative_position"
    hub = ("lmms-lab/vstar-bench",)
    note = (
        "The paper compares the likelihoods of the choices' texts (scoring=loglikelihood likelihood.of=text); by "
        "default the letter is generated, as in lmms-eval."
    )
    verified = (
        "columns, prompt and rule against lmms-eval 0.7.3's task, the original's annotations (question, options, "
        "target_object, bbox) against the authors' vstar_bench_eval.py, 191 = 115 + 76 questions in their data's "
        "viewer; that bbox is left, top, width, height is inferred from that script"
    )
    expects = (
        "test_questions.jsonl (image, text, category, label, question_id), direct_attributes/ and relative_position/ "
        "with NAME.jpg and NAME.json, or data/test-*.parquet (image, text, category, label, question_id)"
    )
    counts: ClassVar = {"test": (191,)}
    metric_type = VStar
    parser = "lmms-eval: the first letter, after `answer`, in brackets, before a mark, alone, or the only one"
    prompts: ClassVar = dict.fromkeys(
        ("llava", "lmms_eval", "released"), Template(text=f"{{question}}\n{{options}}{LETTER}")
    )

    def read(self, folder: Path) -> Iterable[Question]:
        """The original release where it lies, else parquet."""
        if (folder / "test_questions.jsonl").is_file():
            for row in self.read_json(folder, "test_questions.jsonl"):
                image = image_in(folder, row["image"], "")
                beside = image.with_suffix(".json")
                boxes = self._boxes(folder, beside) if beside.is_file() else None
                yield self._question(row, image, boxes)
            return
        files = parquet_files(folder, "test")
        if not files:
            raise self.missing(folder, "test_questions.jsonl or data/test-*.parquet")
        for row in self.parquet_rows(files, ("text", "category", "label", "question_id", "image")):
            yield self._question(row, image_of(row))

    def _boxes(self, folder: Path, path: Path) -> list[list[float]]:
        """Left, top, right and bottom of each object, from left, top, width and height."""
        boxes = self.read_json(folder, str(path.relative_to(folder)))["bbox"]
        for box in boxes:
            if len(box) != 4 or not all(isinstance(side, int | float) for side in box) or min(box[2:]) <= 0:
                raise ValueError(f"{self.name}: {path}: bbox {box} is not left, top, width and height.")
        return [[left, top, left + width, top + height] for left, top, width, height in boxes]

    def _question(self, row: Mapping[str, Any], image: Any, boxes: list[list[float]] | None = None) -> Question:
        key, category = str(row["question_id"]), row["category"]
        found = list(CHOICE.finditer(row["text"]))
        letters = [choice.group(1) for choice in found]
        if letters != [*"ABCDEFGH"[: len(letters)]] or not letters:
            raise ValueError(f"{self.name}: question {key}: found no choices (A), (B), ... in {row['text']!r:.80}.")
        return self.question(
            f"{category}/{key}",
            row["text"][: found[0].start()].strip(),
            images=[image],
            choices=tuple(choice.group(2).strip() for choice in found),
            references=[row["label"].strip().strip("()").upper()],
            category=category,
            meta={} if boxes is None else {"boxes": boxes},
        )
