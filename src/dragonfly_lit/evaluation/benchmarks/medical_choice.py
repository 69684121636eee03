"""Medical multiple choice: PMC-VQA, OmniMedVQA and MedXpertQA's questions with images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import (
    image_in,
    image_of,
    lettered,
    parquet_files,
    words,
)
from dragonfly_lit.evaluation.metrics.medical_choice import SimilarChoice
from dragonfly_lit.evaluation.parsers import LETTERS
from dragonfly_lit.evaluation.prompts import LETTER, Template

RULE = "lmms-eval's for AI2D: letter and full stop in front, else the whole output"
PROMPTS: Mapping[str, Template] = dict.fromkeys(
    ("llava", "lmms_eval", "released"), Template(text=f"{{question}}\n{{options}}{LETTER}")
)


@dataclass(frozen=True, kw_only=True)
class PMCVQA(Benchmark):
    """Figures of papers. `split=test_clean` are the 2,000 questions that people checked, of the first version."""

    name = "pmc_vqa"
    title = "PMC-VQA (Zhang et al., 2023)"
    original = "test.csv, test_clean.csv, test_2.csv and the unpacked figures of xmcmic/PMC-VQA"
    hub = ("mdwiratathya/PMC-VQA_small",)
    licence = "CC BY-SA, its card says; the figures belong to papers under CC0 and CC BY"
    note = "The authors match a model's words with the choices by difflib; `accuracy_similar` does so."
    verified = (
        "columns of the original against its card, of the hub's copy against its card (152,603 and 33,430 rows), the "
        "matching against the authors' test.py, 176,948 and 2,000 rows of train.csv and test_clean.csv against the "
        "card of another copy; those of test.csv and test_2.csv were not verified; no generated letter is scored "
        "there, and lmms-eval has no such task"
    )
    expects = (
        "test.csv, test_clean.csv or test_2.csv (Figure_path, Question, Choice A to Choice D, Answer_label or Answer) "
        "and images/ or figures/, or data/test-*.parquet (image, question, choice a to choice d, answer label)"
    )
    counts: ClassVar = {"test_clean": (2000,), "train": (152603, 176948)}
    splits = ("test", "test_clean", "test_2", "train")
    metric_type = SimilarChoice
    parser = RULE
    prompts = PROMPTS

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of the hub's copy, else the original's tables."""
        files = parquet_files(folder, self.split)
        if files:
            columns = ("image", "question", "answer label", "choice a", "choice b")
            for number, row in enumerate(self.parquet_rows(files, columns, ("choice c", "choice d"))):
                choices = lettered(row, "abcd", "choice ")
                yield self._question(number, row["question"], choices, row["answer label"], image_of(row))
            return
        path = folder / f"{self.split}.csv"
        if not path.is_file():
            raise self.missing(folder, f"{self.split}.csv or data/{self.split}-*.parquet")
        columns = ("Figure_path", "Question", "Choice A", "Choice B")
        for number, row in enumerate(self.table_rows(path, columns, delimiter=",")):
            image = image_in(folder, row["Figure_path"], "images", "figures", "images_2", "")
            answer = row.get("Answer_label") or row.get("Answer") or ""
            yield self._question(number, row["Question"], lettered(row, "ABCD", "Choice "), answer, image)

    def _question(self, number: int, text: str, choices: tuple[str, ...], answer: str, image: Any) -> Question:
        key = f"{self.split}-{number:05d}"
        plain = tuple(_without(choice, letter) for choice, letter in zip(choices, LETTERS, strict=False))
        label = answer.strip()
        if label not in tuple(LETTERS[: len(plain)]) and label in plain:
            label = LETTERS[plain.index(label)]
        return self.question(key, text.strip(), images=[image], choices=plain, references=[label])


def _without(choice: str, letter: str) -> str:
    """`A:Diffuse uptake` as `Diffuse uptake`."""
    return choice.strip().removeprefix(f"{letter}:").strip()


@dataclass(frozen=True, kw_only=True)
class OmniMedVQA(Benchmark):
    """Questions made of 73 medical data sets; the open-access part, unless `part` says otherwise.

    The split is the modality, the category the kind of question.
    """

    name = "omnimedvqa"
    title = "OmniMedVQA (Hu et al., 2024)"
    original = "OmniMedVQA.zip of foreverbeliever/OmniMedVQA: Images/ and QA_information/"
    hub = ("none by its authors; a parquet copy with the same fields and the image is read",)
    licence = "that of each of its data sets"
    note = "The authors match a model's words with the choices by difflib; `accuracy_similar` does so."
    verified = (
        "folders against the data set's card; fields (question_id, question_type, question, gt_answer, image_path, "
        "option_A to option_D, modality_type) against public code that reads them; the sizes of its two parts were not "
        "verified; lmms-eval has no such task"
    )
    expects = (
        "QA_information/Open-access/*.json (question_id, question_type, question, gt_answer, image_path, option_A to "
        "option_D, modality_type) and Images/, or data/test-*.parquet (the same with image)"
    )
    metric_type = SimilarChoice
    parser = RULE
    prompts = PROMPTS

    part: str = "Open-access"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part not in ("Open-access", "Restricted-access"):
            raise ValueError(f"benchmark.part={self.part!r}: omnimedvqa has Open-access and Restricted-access.")

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, else every list of the part in the order of their names."""
        files = parquet_files(folder, "test")
        columns = ("question_id", "question", "gt_answer", "option_A", "option_B")
        if files:
            more = ("option_C", "option_D", "question_type", "modality_type")
            for row in self.parquet_rows(files, (*columns, "image"), more):
                yield self._question(row, image_of(row))
            return
        place = folder / "QA_information" / self.part
        lists = sorted(place.glob("*.json"))
        if not lists:
            raise self.missing(folder, f"QA_information/{self.part}/*.json or data/test-*.parquet")
        for path in lists:
            for row in self.read_json(place, path.name):
                yield self._question(row, image_in(folder, row["image_path"], ""))

    def _question(self, row: Mapping[str, Any], image: Any) -> Question:
        key, choices = row["question_id"], lettered(row, "ABCD", "option_")
        answer = str(row["gt_answer"]).strip()
        found = [letter for letter, choice in zip(LETTERS, choices, strict=False) if choice.strip() == answer]
        if not found:
            raise ValueError(
                f"{self.name}: question {key} has the answer {answer!r:.60}, which is none of its choices."
            )
        return self.question(
            key,
            row["question"],
            images=[image],
            choices=choices,
            references=found[:1],
            split=row.get("modality_type") or "",
            category=row.get("question_type") or "",
        )


@dataclass(frozen=True, kw_only=True)
class MedXpertQA(Benchmark):
    """Exam questions with images, five choices, which stand in the question's text too."""

    name = "medxpertqa"
    title = "MedXpertQA, MM (Zuo et al., 2025)"
    original = "MM/test.jsonl and the unpacked images.zip of TsinghuaC3I/MedXpertQA"
    hub = ("TsinghuaC3I/MedXpertQA, MM (the original)",)
    licence = "MIT"
    verified = (
        "fields, files and 2,000 rows against the data set's card and viewer; the parquet copy is the hub's own, which "
        "names images and does not hold them; the authors' cleaning of answers was not seen, and lmms-eval has no such "
        "task"
    )
    expects = (
        "MM/test.jsonl (id, question, options, label, images, medical_task, body_system, question_type) and images/, "
        "or MM/test-*.parquet or MM/test/*.parquet (the same) and images/"
    )
    listed = "its questions' texts list the choices"
    splits = ("test", "dev")
    counts: ClassVar = {"test": (2000,), "dev": (5,)}
    metric_type = SimilarChoice
    parser = RULE
    prompts: ClassVar = dict.fromkeys(("llava", "lmms_eval", "released"), Template(text=f"{{question}}\n{LETTER}"))

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, else the JSON lines; the images lie beside either."""
        files = parquet_files(folder, self.split, "MM") or sorted((folder / "MM" / self.split).glob("*.parquet"))
        columns = ("id", "question", "options", "label", "images")
        more = ("medical_task", "body_system", "question_type")
        rows = self.parquet_rows(files, columns, more) if files else self.read_json(folder, f"MM/{self.split}.jsonl")
        for row in rows:
            options = row["options"]
            choices = words([options[letter] for letter in LETTERS if options.get(letter) is not None], row["id"])
            yield self.question(
                row["id"],
                row["question"],
                images=[image_in(folder, name, "images", "") for name in row["images"]],
                choices=choices,
                references=[row["label"]],
                split=row.get("question_type") or "",
                category=row.get("medical_task") or "",
            )
