"""MMBench: twenty abilities, each question in every order of its choices, right only if all of them are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question, Sheet
from dragonfly_lit.evaluation.benchmarks.tables import image_of, lettered, one, parquet_files
from dragonfly_lit.evaluation.images import EncodedImage
from dragonfly_lit.evaluation.metrics import perception
from dragonfly_lit.evaluation.prompts import LETTER, Template

CIRCLE = 1_000_000
"""Index of a question in another order of its choices: that of the first order and so much a turn."""
COLUMNS = ("index", "question", "hint", "category", "image", "A", "B")
OPTIONAL = ("C", "D", "answer", "L2-category", "l2-category")


@dataclass(frozen=True, kw_only=True)
class MMBench(Benchmark):
    """The English release, whose files have the further orders of a question as rows of their own.

    The split is the wide ability, the category the fine one. The test answers are hidden.
    """

    name = "mmbench"
    title = "MMBench (Liu et al., 2023)"
    original = "mmbench_dev_en_20231003.tsv and the like of opencompass.org"
    hub = ("lmms-lab/MMBench, en", "lmms-lab/MMBench_EN")
    note = "The answers of the test split are hidden: predict=true writes the file that the challenge's server scores."
    verified = (
        "columns and counts against the cards of lmms-lab/MMBench and MMBench_EN, prompt, circles (index plus a "
        "million) and the rule without a judge against lmms-eval 0.7.3's task; the published scores use a judge where "
        "no letter is found"
    )
    expects = (
        "mmbench_dev_en*.tsv or MMBench_DEV_EN*.tsv (index, question, hint, A to D, answer, category, image in base64 "
        "or the index of the row that has it), or en/dev-*.parquet or data/dev-*.parquet (the same, L2-category)"
    )
    splits = ("dev", "test")
    counts: ClassVar = {"dev": (4329, 4377), "test": (6666,)}
    listed = "its rows are each question in every order already"
    server = "OpenCompass's server of MMBench"
    metric_type = perception.MMBench
    parser = "lmms-eval without a judge: the one letter as a word, the one choice named, or its shared rule"
    prompts: ClassVar = {
        "llava": Template(text=f"{{context}}{{question}}\n{{options}}{LETTER}", context="{hint}"),
        "lmms_eval": Template(
            text=f"{{context}}{{question}} There are several options:\n{{options}}{LETTER}", context="{hint}"
        ),
        "released": Template(text=f"{{context}}{{question}}\n{{options}}{LETTER}", context="{hint}"),
    }

    split: str = "dev"

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet, else the table of text, whose further orders name the row that has their image."""
        files = parquet_files(folder, self.split, "en")
        if files:
            for row in self.parquet_rows(files, COLUMNS, OPTIONAL):
                yield self._question(row, image_of(row))
            return
        tables = sorted(
            path
            for path in folder.glob("*.tsv")
            if path.name.lower().startswith((f"mmbench_{self.split}_en", f"mmbench_{self.split}_2"))
        )
        if not tables:
            raise self.missing(folder, f"en/{self.split}-*.parquet or mmbench_{self.split}_en*.tsv")
        images: dict[str, Any] = {}
        for row in self.table_rows(tables[0], COLUMNS, "image"):
            image = row["image"]
            if not isinstance(image, EncodedImage):
                if image not in images:
                    raise ValueError(
                        f"{self.name}: question {row['index']} has the image of {image!r}, which has none."
                    )
                image = images[image]
            images[row["index"]] = image
            yield self._question(row, image)

    def _question(self, row: Mapping[str, Any], image: Any) -> Question:
        index, hint = int(row["index"]), row.get("hint")
        return self.question(
            index,
            row["question"],
            images=[image],
            choices=lettered(row, "ABCD"),
            references=one(row.get("answer") if row.get("answer") != "nan" else None),
            split=row.get("L2-category") or row.get("l2-category") or "",
            category=row["category"],
            meta={"circle": index % CIRCLE, "hint": "" if hint in (None, "nan") else hint},
        )

    def submission(self, answered: Sequence[tuple[Question, str]]) -> Sheet:
        """A sheet of every row's question, choices and output."""
        rows = [
            {
                "index": int(question.id),
                "question": question.text,
                **dict(zip("ABCD", question.choices or (), strict=False)),
                "prediction": output,
            }
            for question, output in answered
        ]
        return Sheet(columns=("index", "question", "A", "B", "C", "D", "prediction"), rows=rows)
