"""MME: two yes-no questions about each image, in fourteen subtasks; points for each and for both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import first_existing, image_in, image_of, one, parquet_files
from dragonfly_lit.evaluation.metrics import yes_no
from dragonfly_lit.evaluation.metrics.yes_no import COGNITION, PERCEPTION, mme_pairs
from dragonfly_lit.evaluation.prompts import SHORT, Template

EXTENSIONS = (".png", ".jpg", ".jpeg")


class MME(Benchmark):
    """Two yes-no questions about each image, in fourteen subtasks; a limit keeps pairs whole."""

    name = "mme"
    title = "MME (Fu et al., 2023)"
    original = "MME_Benchmark_release_version.zip, on request from its authors"
    hub = ("lmms-lab/MME",)
    licence = "research only, as its authors ask"
    verified = (
        "columns and counts against the hub's card, rules against the original's eval_tool and lmms-eval 0.7.3's task"
    )
    expects = (
        "SUBTASK/NAME.txt beside SUBTASK/NAME.png (or SUBTASK/questions_answers_YN/NAME.txt and "
        "SUBTASK/images/NAME.jpg), or eval_tool/*/SUBTASK.txt with the images, or data/test-*.parquet (question_id, "
        "image, question, answer, category)"
    )
    counts: ClassVar = {"test": (2374,)}
    metric_type = yes_no.MME
    parser = "MME: yes, else no, in the first four letters"
    prompts: ClassVar = dict.fromkeys(
        ("llava", "lmms_eval"), Template(text=f"{{question}}\n{SHORT}", remove=(" Please answer yes or no.",))
    )

    def questions(self, data_root: str | Path, *, hidden: bool = False) -> list[Question]:
        """The questions, with both of each image.

        Args:
            data_root: folder of the benchmarks' data.
            hidden: whether a question may have no accepted answer.

        Raises:
            ValueError: as for every benchmark, and when an image has not exactly two questions.
        """
        everything = replace(self, limit=None)
        found = super(MME, everything).questions(data_root, hidden=hidden)
        pairs = mme_pairs(found)
        if self.limit is None:
            return found
        partner = {row: pair for members in pairs.values() for pair in members for row in pair}
        kept = {row for first in range(min(self.limit, len(found))) for row in partner[first]}
        return [question for row, question in enumerate(found) if row in kept]

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/MME, else the original folders."""
        files = parquet_files(folder, "test")
        numbers: Counter[tuple[str, str]] = Counter()
        for subtask, pair, text, answer, image in self._parquet(files) if files else self._original(folder):
            key = f"{subtask}/{pair}#{numbers[subtask, pair]}"
            numbers[subtask, pair] += 1
            references, meta = one(answer), {"pair": pair}
            yield self.question(key, text, images=[image], references=references, category=subtask, meta=meta)

    def _parquet(self, files: Sequence[Path]) -> Iterator[tuple[str, str, str, str, Any]]:
        for row in self.parquet_rows(files, ("question_id", "question", "answer", "category", "image")):
            pair = str(row["question_id"]).rpartition("/")[2]
            image = image_of(row, key=f"{row['category']}/{pair}")
            yield row["category"], pair, row["question"], row["answer"], image

    def _original(self, folder: Path) -> Iterator[tuple[str, str, str, str, Any]]:
        found = False
        for subtask in (*PERCEPTION, *COGNITION):
            place = folder / subtask
            texts = sorted([*place.glob("*.txt"), *place.glob("questions_answers_YN/*.txt")])
            for path in texts:
                names = [f"{part}{path.stem}{extension}" for part in ("", "images/") for extension in EXTENSIONS]
                image = first_existing(place, *names)
                for text, answer in self._lines(path, 2):
                    found = True
                    yield subtask, image.name, text, answer, image
            for path in () if texts else sorted(folder.glob(f"eval_tool/*/{subtask}.txt"))[:1]:
                for name, text, answer in self._lines(path, 3):
                    found = True
                    yield subtask, name, text, answer, image_in(place, name, "", "images")
        if not found:
            raise self.missing(folder, "subtask with questions")

    def _lines(self, path: Path, columns: int) -> Iterator[list[str]]:
        for number, line in enumerate(self.read_text(path).split("\n"), start=1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) >= columns:
                yield [field.strip() for field in fields[:columns]]
            elif line.strip():
                raise ValueError(f"{self.name}: {path}: line {number} has {len(fields)} columns; expected {columns}.")
