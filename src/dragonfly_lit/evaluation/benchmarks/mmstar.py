"""MMStar: 1,500 questions of six capabilities that cannot be answered without their image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_of, lettered, parquet_files
from dragonfly_lit.evaluation.metrics import perception
from dragonfly_lit.evaluation.prompts import LETTER, Template

COLUMNS = ("index", "question", "answer", "category", "l2_category", "image")


@dataclass(frozen=True, kw_only=True)
class MMStar(Benchmark):
    """The split is the capability, the category its finer kind. The parquet file has its choices in the questions."""

    name = "mmstar"
    title = "MMStar (Chen et al., 2024)"
    original = "mmstar.parquet and MMStar.tsv of Lin-Chen/MMStar"
    hub = ("Lin-Chen/MMStar",)
    verified = (
        "columns against a copy's card, file names and 1,500 rows against the data set's pages, prompt and rule "
        "against lmms-eval 0.7.3's task; that the table of text has the columns that its task for OpenCompass reads (A "
        "to D, base64) is inferred"
    )
    expects = (
        "mmstar.parquet or data/val-*.parquet (index, question, answer, category, l2_category, image), or MMStar.tsv "
        "(the same with A to D, images in base64)"
    )
    listed = "its questions' texts list the choices"
    splits = ("val",)
    counts: ClassVar = {"val": (1500,)}
    metric_type = perception.MMStar
    parser = "lmms-eval: of all letters the one whose form counts most (in front, at the end, behind `answer is`, (A))"
    prompts: ClassVar = {
        "llava": Template(text=f"{{question}}\n{{options}}{LETTER}", open=f"{{question}}\n{LETTER}"),
        "lmms_eval": Template(text=f"{{question}}\n{{options}}{LETTER[:-1]}", open=f"{{question}}\n{LETTER[:-1]}"),
        "released": Template(text=f"{{question}}\n{{options}}{LETTER}", open=f"{{question}}\n{LETTER}"),
    }

    split: str = "val"

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, else the table of text."""
        files = parquet_files(folder, "mmstar") or parquet_files(folder, self.split)
        if files:
            for row in self.parquet_rows(files, COLUMNS):
                yield self._question(row, image_of(row))
            return
        if not (folder / "MMStar.tsv").is_file():
            raise self.missing(folder, "mmstar.parquet or MMStar.tsv")
        for row in self.table_rows(folder / "MMStar.tsv", (*COLUMNS, "A", "B"), "image"):
            yield self._question(row, row["image"])

    def _question(self, row: Mapping[str, Any], image: Any) -> Question:
        return self.question(
            row["index"],
            row["question"].replace("<image 1>", "").strip(),
            images=[image],
            choices=lettered(row, "ABCD") or None,
            references=[row["answer"].strip()],
            split=row["category"],
            category=row["l2_category"],
        )
