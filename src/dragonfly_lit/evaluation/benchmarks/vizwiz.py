"""VizWiz-VQA: questions of blind people about their photographs, VQA accuracy over ten answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files
from dragonfly_lit.evaluation.metrics.vqa import VQAAccuracy, normalise
from dragonfly_lit.evaluation.prompts import SHORT, Template

TEXT = f"{{question}}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT}"


@dataclass(frozen=True, kw_only=True)
class VizWiz(Benchmark):
    """Questions of blind people about their photographs; ids are the image names. The test answers are not public."""

    name = "vizwiz"
    title = "VizWiz-VQA (Gurari et al., 2018)"
    original = "Annotations and val of vizwiz.org"
    hub = ("lmms-lab/VizWiz-VQA",)
    licence = "CC BY 4.0"
    note = "The answers of the test split are hidden; scores of it come from the challenge's server."
    verified = "columns and counts against the hub's card, rule against lmms-eval 0.7.3's task"
    expects = (
        "val.json (or Annotations/val.json) and val/*.jpg, or data/val-*.parquet (question_id, image, question, "
        "answers, category)"
    )
    splits = ("val", "train", "test")
    counts: ClassVar = {"val": (4319,), "test": (8000,)}
    server = "the VizWiz challenge of EvalAI"
    metric_type = VQAAccuracy
    parser = "VQA accuracy on the output as it is"
    prompts: ClassVar = {"llava": Template(text=TEXT), "lmms_eval": Template(text=TEXT, capitalize=True)}

    split: str = "val"

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/VizWiz-VQA, else the original release."""
        files = parquet_files(folder, self.split)
        if files:
            for row in self.parquet_rows(files, ("question_id", "question", "image"), ("answers", "category")):
                key, answers = str(row["question_id"]).removesuffix(".jpg"), row.get("answers") or ()
                kind = row.get("category") or ""
                yield self.question(key, row["question"], images=[image_of(row)], references=answers, category=kind)
            return
        for row in self.read_json(folder, f"{self.split}.json", f"Annotations/{self.split}.json"):
            name, kind = row["image"], row.get("answer_type") or ""
            image = image_in(folder, name, self.split, "images", "")
            answers = [entry["answer"] for entry in row.get("answers") or ()]
            yield self.question(Path(name).stem, row["question"], images=[image], references=answers, category=kind)

    def submission(self, answered: Sequence[tuple[Question, str]]) -> list[dict[str, Any]]:
        """A list of images' names and answers in EvalAI's form."""
        return [{"image": f"{question.id}.jpg", "answer": normalise(output)} for question, output in answered]
