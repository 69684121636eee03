"""MME-RealWorld: five scenarios on photographs, scans and satellite images, five choices; and its small edition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, parquet_files, without_letters
from dragonfly_lit.evaluation.metrics import highres
from dragonfly_lit.evaluation.prompts import Template

INSTRUCTION = (
    "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter "
    "(A, B, C, D, or E) of the correct option."
)
PROMPT = f"{{question}} The choices are listed below:\n{{options}}{INSTRUCTION}\nThe best answer is:"
PARQUET = ("index", "question", "multi-choice options", "answer", "category", "l2-category", "bytes")


class MMERealWorldFiles(Benchmark):
    """What both editions share. The split is perception or reasoning, the category the scenario."""

    licence = "academic research only, as its authors ask"
    verified = (
        "fields of the original against the authors' output_test_template.json and model_vqa_mme_real_world.py, prompt "
        "and rule against their README.md and eval_your_results.py, columns of the hub's copy against lmms-eval "
        "0.7.3's task; the paper's 29,429 questions are those of all languages, the sizes of this edition and of its "
        "copies were not verified"
    )
    metric_type = highres.MMERealWorld
    parser = "MME-RealWorld: the first capital A to E behind its introductions, else the first choice with the output"
    prompts: ClassVar = {
        "llava": Template(text=PROMPT, option="({letter}) {choice}"),
        "lmms_eval": Template(text=f"{PROMPT} ", option="({letter}) {choice}"),
        "released": Template(text=PROMPT, option="({letter}) {choice}"),
    }
    json_names: ClassVar[tuple[str, ...]]
    """Names that the original's list of questions has had."""

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, whose images are base64, else the original list."""
        files = parquet_files(folder, "train") or parquet_files(folder, "test")
        if files:
            for row in self.parquet_rows(files, PARQUET):
                task = "Perception" if "perception" in row["category"].lower() else "Reasoning"
                scenario, image = row["category"].split("/")[-1], image_of(row, "bytes")
                options = row["multi-choice options"]
                yield self._question(row["index"], row["question"], options, row["answer"], image, (task, scenario))
            return
        for row in self.read_json(folder, *self.json_names):
            groups = row["Task"], row["Subtask"]
            image = image_in(folder, row["Image"], "", "images", "data", "imgs")
            options, answer = row["Answer choices"], row["Ground truth"]
            yield self._question(row["Question_id"], row["Text"], options, answer, image, groups)

    def _question(
        self, key: Any, text: str, options: Sequence[Any], answer: str, image: Any, groups: tuple[str, str]
    ) -> Question:
        choices = without_letters(options, f"question {key}: choice")
        task, scenario = groups
        return self.question(
            key, text, images=[image], choices=choices, references=[answer], split=task, category=scenario
        )


@dataclass(frozen=True, kw_only=True)
class MMERealWorld(MMERealWorldFiles):
    """The English questions; the Chinese ones are another set."""

    name = "mme_realworld"
    title = "MME-RealWorld (Zhang et al., 2024)"
    original = "MME_RealWorld.json and the unpacked images of yifanzhang114/MME-RealWorld"
    hub = ("yifanzhang114/MME-RealWorld-Lmms-eval",)
    expects = (
        "MME_RealWorld.json (Question_id, Image, Text, Answer choices, Ground truth, Task, Subtask) and its images, or "
        "data/train-*.parquet (index, question, multi-choice options, answer, category, l2-category, bytes)"
    )
    json_names: ClassVar = ("MME_RealWorld.json", "MME-RealWorld.json")


@dataclass(frozen=True, kw_only=True)
class MMERealWorldLite(MMERealWorldFiles):
    """The small edition, at most 50 questions of each kind."""

    name = "mme_realworld_lite"
    title = "MME-RealWorld-Lite (Zhang et al., 2024)"
    original = "the list and the images of yifanzhang114/MME-RealWorld-Lite"
    hub = ("yifanzhang114/MME-RealWorld-lite-lmms-eval",)
    expects = (
        "MME-RealWorld-Lite.json (Question_id, Image, Text, Answer choices, Ground truth, Task, Subtask) and its "
        "images, or data/train-*.parquet (index, question, multi-choice options, answer, category, l2-category, bytes)"
    )
    json_names: ClassVar = ("MME-RealWorld-Lite.json", "MME_RealWorld_Lite.json")
