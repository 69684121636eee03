"""VQAv2: questions about photographs, VQA accuracy over ten answers; those of the test splits are hidden."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files
from dragonfly_lit.evaluation.metrics.vqa import VQAv2Accuracy, normalise_vqav2

PLACES = {
    "validation": ("val2014", "val2014"),
    "testdev": ("test-dev2015", "test2015"),
    "test": ("test2015", "test2015"),
}
"""Of each split the name in the lists, and the folder of the images."""


@dataclass(frozen=True, kw_only=True)
class VQAv2(Benchmark):
    """Ten people answered each question. The category is the kind of question, the split that of the answer."""

    name = "vqav2"
    title = "VQAv2 (Goyal et al., 2017)"
    original = "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and COCO's images"
    hub = ("lmms-lab/VQAv2",)
    licence = "CC BY 4.0 (questions and answers); the images are COCO's"
    note = (
        "The answers of testdev and test are hidden: predict=true writes the file that the challenge's server scores."
    )
    verified = (
        "columns and counts of the hub's copy against its card, rule and form of the file against lmms-eval 0.7.3's "
        "task, names of the original's files against a copy's card"
    )
    expects = (
        "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and val2014/, or "
        "data/validation-*.parquet (question_id, image_id, question, answers, question_type, answer_type, image)"
    )
    splits = ("validation", "testdev", "test")
    counts: ClassVar = {"validation": (214354,), "testdev": (107394,), "test": (447793,)}
    server = "the VQA challenge of EvalAI"
    metric_type = VQAv2Accuracy
    parser = "VQA accuracy on the output as it is"

    split: str = "validation"

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/VQAv2, else the original release."""
        files = parquet_files(folder, self.split)
        if files:
            columns = ("question_id", "image_id", "question", "image")
            for row in self.parquet_rows(files, columns, ("answers", "question_type", "answer_type")):
                yield self._question(row, row, image_of(row, key=f"{self.split}/{row['image_id']}"))
            return
        name, place = PLACES[self.split]
        rows = self.read_json(folder, f"v2_OpenEnded_mscoco_{name}_questions.json")["questions"]
        notes: dict[Any, Mapping[str, Any]] = {}
        if self.split == "validation":
            known = self.read_json(folder, f"v2_mscoco_{name}_annotations.json")["annotations"]
            notes = {note["question_id"]: note for note in known}
        for row in rows:
            image = image_in(folder, f"COCO_{place}_{int(row['image_id']):012d}.jpg", place, "images")
            yield self._question(row, notes.get(row["question_id"], {}), image)

    def _question(self, row: Mapping[str, Any], note: Mapping[str, Any], image: Any) -> Question:
        return self.question(
            row["question_id"],
            row["question"],
            images=[image],
            references=[each["answer"] for each in note.get("answers") or ()],
            split=note.get("answer_type") or "",
            category=note.get("question_type") or "",
        )

    def submission(self, answered: Sequence[tuple[Question, str]]) -> list[dict[str, Any]]:
        """A list of numbers of questions and answers in VQAv2's form."""
        return [{"question_id": int(question.id), "answer": normalise_vqav2(output)} for question, output in answered]
