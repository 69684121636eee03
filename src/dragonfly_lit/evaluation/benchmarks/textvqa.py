"""TextVQA: questions about text in photographs, VQA accuracy over ten answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files
from dragonfly_lit.evaluation.metrics.vqa import VQAAccuracy, normalise
from dragonfly_lit.evaluation.prompts import SHORT, Template

TEXT = f"{{question}}\n{{ocr}}{SHORT}"


@dataclass(frozen=True, kw_only=True)
class TextVQA(Benchmark):
    """Questions about text in photographs; `ocr=true` puts the words of the data set's OCR system into the prompt."""

    name = "textvqa"
    title = "TextVQA (Singh et al., 2019)"
    original = "TextVQA_0.5.1_val.json and the images of textvqa.org"
    hub = ("lmms-lab/textvqa", "facebook/textvqa")
    licence = "CC BY 4.0"
    verified = "columns and counts against the hub's card, rule against lmms-eval 0.7.3's task"
    expects = (
        "TextVQA_0.5.1_val.json and train_images/IMAGE_ID.jpg (with ocr, TextVQA_Rosetta_OCR_v0.2_val.json), or "
        "data/validation-*.parquet (image_id, question_id, question, answers, ocr_tokens, image)"
    )
    splits = ("validation", "train", "test")
    counts: ClassVar = {"validation": (5000,), "train": (34602,), "test": (5734,)}
    server = "the TextVQA challenge of EvalAI"
    metric_type = VQAAccuracy
    parser = "VQA accuracy on the output as it is"
    prompts: ClassVar = {
        "llava": Template(text=TEXT),
        "lmms_eval": Template(text=TEXT, capitalize=True),
        "released": Template(text="{ocr}{question}"),
    }

    split: str = "validation"
    ocr: bool = False

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/textvqa or facebook/textvqa, else the original release."""
        files = parquet_files(folder, self.split)
        if files:
            columns = ("image_id", "question_id", "question", "image", *(("answers",) if self.split != "test" else ()))
            for row in self.parquet_rows(files, (*columns, "ocr_tokens") if self.ocr else columns):
                yield self._question(row, image_of(row, key=row["image_id"]), row.get("ocr_tokens"))
            return
        short = {"validation": "val"}.get(self.split, self.split)
        rows = self.read_json(folder, f"TextVQA_0.5.1_{short}.json")["data"]
        tokens: dict[str, list[str]] = {}
        if self.ocr:
            words = self.read_json(folder, f"TextVQA_Rosetta_OCR_v0.2_{short}.json")["data"]
            tokens = {entry["image_id"]: entry["ocr_tokens"] for entry in words}
        for row in rows:
            image = image_in(folder, f"{row['image_id']}.jpg", "train_images", "test_images", "images")
            yield self._question(row, image, tokens.get(row["image_id"]))

    def _question(self, row: Mapping[str, Any], image: Any, tokens: Sequence[str] | None) -> Question:
        meta = {"ocr_tokens": tuple(tokens or ())} if self.ocr else {}
        answers = row.get("answers") or ()
        return self.question(row["question_id"], row["question"], images=[image], references=answers, meta=meta)

    def submission(self, answered: Sequence[tuple[Question, str]]) -> list[dict[str, Any]]:
        """A list of numbers of questions and answers in EvalAI's form."""
        return [{"question_id": int(question.id), "answer": normalise(output)} for question, output in answered]
