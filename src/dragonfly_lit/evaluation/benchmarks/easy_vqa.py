"""easy-VQA: yes-no, shape and colour questions about drawn shapes, from the `easy-vqa` package (MIT)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.benchmarks.tables import read_json
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.short import ExactMatch

COLOURS = frozenset({"black", "gray", "red", "green", "blue", "yellow", "teal", "brown"})
SHAPES = frozenset({"rectangle", "triangle", "circle"})


@dataclass(frozen=True, kw_only=True)
class EasyVQA(Task):
    """The official questions; read from the installed package unless `folder` names a copy of its `data` folder."""

    name: ClassVar[str] = "easy_vqa"
    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    counts: ClassVar[Mapping[str, tuple[int, ...]]] = {"test": (9673,), "train": (38575,)}
    expects: ClassVar[str] = "SPLIT/questions.json: [[question, answer, image number], ...]; SPLIT/images/NUMBER.png"

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
        for row, (text, answer, image) in enumerate(read_json(self.source, folder, f"{self.split}/questions.json")):
            yield Question(
                id=f"{self.split}-{row:06d}",
                task=self.name,
                text=text,
                references=(answer,),
                images=(folder / self.split / "images" / f"{image}.png",),
                category=_category(answer),
            )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Exact match; the answers are 13 words."""
        return ExactMatch(questions)


def _category(answer: str) -> str:
    return "colour" if answer in COLOURS else "shape" if answer in SHAPES else "yes-no"
