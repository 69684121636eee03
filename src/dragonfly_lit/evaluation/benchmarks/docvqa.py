"""DocVQA and InfographicVQA: questions about scanned pages and infographics, ANLS; the test answers are hidden."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files
from dragonfly_lit.evaluation.metrics.short import ANLS
from dragonfly_lit.evaluation.prompts import SHORT, Template

SHORT_NAMES = {"validation": "val"}


@dataclass(frozen=True, kw_only=True)
class DocumentQuestions(Benchmark):
    """What both share: a list under `data`, one image a question, several accepted answers."""

    licence = "not stated by the release; the hub's copy says Apache-2.0"
    note = "The answers of the test split are hidden: predict=true writes the file that the challenge's server scores."
    verified = (
        "columns and counts of the hub's copy against its card, prompt and rule against lmms-eval 0.7.3's task and its "
        "anls, names and fields of the original lists against public code that reads them; the lists themselves lie "
        "behind a registration and were not seen"
    )
    splits = ("validation", "test", "train")
    server = "the Document VQA challenge of the Robust Reading Competition"
    metric_type = ANLS
    parser = "ANLS on the output as it is"
    prompts: ClassVar = dict.fromkeys(("llava", "lmms_eval"), Template(text=f"{{question}}\n{SHORT}"))
    config: ClassVar[str]
    """Of the hub's copy."""
    stems: ClassVar[tuple[str, ...]]
    """Names of the original's lists, `{}` being the split."""
    places: ClassVar[tuple[str, ...]]
    """Folders that the lists and the images may lie in."""
    kinds: ClassVar[str]
    """The column that says what kind of question it is."""
    image: ClassVar[str]
    """The original's column with the image's name."""

    split: str = "validation"
    max_new_tokens: int = 32

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/DocVQA, else the original release."""
        files = parquet_files(folder, self.split, self.config)
        if files:
            for row in self.parquet_rows(files, ("questionId", "question", "image"), ("answers", self.kinds)):
                yield self._question(row, image_of(row))
            return
        short = SHORT_NAMES.get(self.split, self.split)
        names = [f"{place}{stem.format(short)}.json" for stem in self.stems for place in ("", *self.places)]
        for row in self.read_json(folder, *names)["data"]:
            name = row[self.image]
            there = image_in(folder, name, "", *self.places)
            yield self._question(row, there if there.is_file() else image_in(folder, Path(name).name, *self.places))

    def _question(self, row: Mapping[str, Any], image: Any) -> Question:
        kinds, answers = row.get(self.kinds) or (), row.get("answers") or ()
        return self.question(
            row["questionId"], row["question"], images=[image], references=answers, category="+".join(sorted(kinds))
        )

    def submission(self, answered: Sequence[tuple[Question, str]]) -> list[dict[str, Any]]:
        """A list of numbers of questions and answers."""
        return [{"questionId": int(question.id), "answer": output} for question, output in answered]


@dataclass(frozen=True, kw_only=True)
class DocVQA(DocumentQuestions):
    """Questions about scanned pages of industry documents, by what holds the answer (form, table, handwriting)."""

    name = "docvqa"
    title = "DocVQA (Mathew et al., 2021)"
    original = "task 1 of the Document VQA challenge (rrc.cvc.uab.es): spdocvqa_qas and spdocvqa_images"
    hub = ("lmms-lab/DocVQA, DocVQA",)
    expects = (
        "val_v1.0_withQT.json (or val_v1.0.json, or in spdocvqa_qas/) and the pages in documents/ or spdocvqa_images/, "
        "or DocVQA/validation-*.parquet (questionId, question, question_types, answers, image)"
    )
    counts: ClassVar = {"validation": (5349,), "test": (5188,), "train": (39463,)}
    config: ClassVar = "DocVQA"
    stems: ClassVar = ("{}_v1.0_withQT", "{}_v1.0")
    places: ClassVar = ("spdocvqa_qas/", "qas/", "val/", "test/", "train/", "spdocvqa_images/", "images/", "documents/")
    kinds: ClassVar = "question_types"
    image: ClassVar = "image"


@dataclass(frozen=True, kw_only=True)
class InfographicVQA(DocumentQuestions):
    """Questions about infographics, by where their answer comes from (one span, several, a count)."""

    name = "infographicvqa"
    title = "InfographicVQA (Mathew et al., 2022)"
    original = "task 3 of the Document VQA challenge (rrc.cvc.uab.es): infographicsvqa_qas and infographicsvqa_images"
    hub = ("lmms-lab/DocVQA, InfographicVQA",)
    expects = (
        "infographicsVQA_val_v1.0_withQT.json (or without _withQT, or in infographicsvqa_qas/) and the images in "
        "infographicsvqa_images/, or InfographicVQA/validation-*.parquet (questionId, question, answers, answer_type, "
        "image)"
    )
    counts: ClassVar = {"validation": (2801,), "test": (3288,), "train": (23946,)}
    config: ClassVar = "InfographicVQA"
    stems: ClassVar = ("infographicsVQA_{}_v1.0_withQT", "infographicsVQA_{}_v1.0", "infographicVQA_{}_v1.0")
    places: ClassVar = ("infographicsvqa_qas/", "qas/", "infographicsvqa_images/", "images/")
    kinds: ClassVar = "answer_type"
    image: ClassVar = "image_local_name"
