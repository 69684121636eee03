"""easy-VQA: yes-no, shape and colour questions about drawn shapes, from the `easy-vqa` package (MIT)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.metrics.short import ExactMatch

COLOURS = frozenset({"black", "gray", "red", "green", "blue", "yellow", "teal", "brown"})
SHAPES = frozenset({"rectangle", "triangle", "circle"})


@dataclass(frozen=True, kw_only=True)
class EasyVQA(Benchmark):
    """The official questions; read from the installed package unless `folder` names a copy of its `data` folder.

    The answers are 13 words.
    """

    name = "easy_vqa"
    title = "easy-VQA (Zhou, 2020)"
    original = "the easy-vqa package: pip install 'dragonfly_lit[demo]'"
    verified = "files and counts against the easy-vqa package, which is installed; rule against LLaVA's for GQA"
    licence = "MIT"
    expects = "SPLIT/questions.json: [[question, answer, image number], ...]; SPLIT/images/NUMBER.png"
    splits = ("test", "train")
    counts: ClassVar = {"test": (9673,), "train": (38575,)}
    metric_type = ExactMatch
    asked_with = "released"  # no published row; the demo is trained on the bare questions

    max_new_tokens: int = 8

    def locate(self, data_root: str | Path) -> Path:
        """The given folder, or the package's own."""
        if self.folder is not None:
            return Path(self.folder)
        try:
            return Path(str(files("easy_vqa"))) / "data"
        except ModuleNotFoundError as error:
            raise ValueError(
                "easy_vqa reads the easy-vqa package, which is not installed: pip install 'dragonfly_lit[demo]'."
            ) from error

    def read(self, folder: Path) -> Iterable[Question]:
        """The questions in the package's order, `test-000000` and on."""
        for row, (text, answer, number) in enumerate(self.read_json(folder, f"{self.split}/questions.json")):
            image, key = folder / self.split / "images" / f"{number}.png", f"{self.split}-{row:06d}"
            yield self.question(key, text, images=[image], references=[answer], category=_category(answer))


def _category(answer: str) -> str:
    return "colour" if answer in COLOURS else "shape" if answer in SHAPES else "yes-no"
