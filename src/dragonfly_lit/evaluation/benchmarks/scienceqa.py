"""ScienceQA: school science with or without an image, multiple choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import check_images, image_in, image_of, letter_of, parquet_files, words
from dragonfly_lit.evaluation.metrics import choice
from dragonfly_lit.evaluation.prompts import LETTER, Template
from dragonfly_lit.evaluation.published import published_rows


@dataclass(frozen=True, kw_only=True)
class ScienceQA(Benchmark):
    """School science with or without an image; `subset=img` keeps the questions with one.

    `accuracy/image` is LLaVA's IMG accuracy.
    """

    name = "scienceqa"
    title = "ScienceQA (Lu et al., 2022)"
    original = "problems.json, pid_splits.json and images of its release"
    hub = ("lmms-lab/ScienceQA, ScienceQA-FULL", "derek-thomas/ScienceQA")
    licence = "CC BY-NC-SA 4.0"
    verified = "counts against the original's pid_splits.json, rules against LLaVA's script and lmms-eval 0.7.3's task"
    expects = (
        "problems.json, pid_splits.json and images/SPLIT/ID/image.png, or ScienceQA-FULL/test-*.parquet "
        "(image, question, choices, answer, hint), or data/test-*.parquet of derek-thomas/ScienceQA"
    )
    splits = ("test", "val", "minival", "minitest")
    counts: ClassVar = {"test": (4241, 2017), "val": (4241,), "minival": (424,), "minitest": (424,)}
    metric_type = choice.ScienceQA
    parser = "LLaVA: the letter, `X. ` in front, or one `The answer is X.`"
    prompts: ClassVar = dict.fromkeys(
        ("llava", "lmms_eval", "released"), Template(text=f"{{context}}{{question}}\n{{options}}{LETTER}")
    )
    published = published_rows("accuracy", (68.2, 70.4, 72.8, 68.2, 80.5))

    subset: str = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset not in ("full", "img"):
            raise ValueError(f"benchmark.subset={self.subset!r}: scienceqa has full and img.")

    def read(self, folder: Path) -> Iterable[Question]:
        """The original release where it lies, else parquet."""
        questions = self._original(folder) if (folder / "problems.json").is_file() else self._parquet(folder)
        return (question for question in questions if self.subset == "full" or question.images)

    def _original(self, folder: Path) -> Iterable[Question]:
        problems, splits = (self.read_json(folder, name) for name in ("problems.json", "pid_splits.json"))
        for key in splits[self.split]:
            fields = problems.get(key)
            if fields is None:
                raise ValueError(f"{self.name}: pid_splits.json lists {key}, which problems.json does not have.")
            place = {"minival": "val", "minitest": "test"}.get(self.split, self.split)
            images = (image_in(folder / "images", f"{key}/{fields['image']}", place),) if fields.get("image") else ()
            yield self._question(key, fields, images)

    def _parquet(self, folder: Path) -> Iterable[Question]:
        split = {"val": "validation"}.get(self.split, self.split)
        configs = ("ScienceQA-FULL",) if self.subset == "full" else ("ScienceQA-FULL", "ScienceQA-IMG")
        files = parquet_files(folder, split, *configs)
        if not files:
            raise self.missing(folder, f"problems.json or {split}-*.parquet")
        columns = ("question", "choices", "answer", "hint", "image")
        filled = check_images(files)
        for row, fields in enumerate(self.parquet_rows(files, columns, ("subject",))):
            yield self._question(f"{self.split}-{row:05d}", fields, (image_of(fields),) if filled[row] else ())

    def _question(self, key: str, fields: Mapping[str, Any], images: tuple) -> Question:
        return self.question(
            key,
            fields["question"],
            images=images,
            choices=words(fields["choices"], f"question {key}: choice"),
            references=[letter_of(self.name, key, int(fields["answer"]), fields["choices"])],
            category=fields.get("subject") or "",
            split="image" if images else "text",
            meta={"hint": fields.get("hint") or ""},
        )
