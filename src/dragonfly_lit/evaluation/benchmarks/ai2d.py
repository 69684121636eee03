"""AI2D: diagrams of school science, the letter of one of four choices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import image_in, image_of, letter_of, parquet_files, words
from dragonfly_lit.evaluation.metrics.choice import MultipleChoice
from dragonfly_lit.evaluation.prompts import LETTER, Template
from dragonfly_lit.evaluation.published import published_rows


class AI2D(Benchmark):
    """Diagrams of school science; the original release is read by its `ai2d_test_ids.csv`, or whole without it."""

    name = "ai2d"
    title = "AI2 Diagrams (Kembhavi et al., 2016)"
    original = "the AI2D archive of the Allen Institute for AI"
    hub = ("lmms-lab/ai2d", "Efficient-Large-Model/ai2d-no-mask")
    licence = "CC BY-SA 4.0 (annotations)"
    note = "The first hub copy masks the labels in the diagrams, the second does not: scores are not comparable."
    verified = (
        "columns against the script that made the hub's copy, its count against its viewer, rule against "
        "lmms-eval 0.7.3"
    )
    expects = (
        "data/test-*.parquet (question, options, answer, image) or questions/*.json with images/ and ai2d_test_ids.csv"
    )
    counts: ClassVar = {"test": (3088,)}
    metric_type = MultipleChoice
    parser = "lmms-eval: letter and full stop in front, else the whole output"
    prompts: ClassVar = dict.fromkeys(
        ("llava", "lmms_eval", "released"), Template(text=f"{{question}}\n{{options}}{LETTER}")
    )
    published = published_rows("accuracy", (None, 54.8, 60.8, 52.3, 63.6))

    def read(self, folder: Path) -> Iterable[Question]:
        """Parquet of lmms-lab/ai2d (or of Efficient-Large-Model/ai2d-no-mask), else AI2's own release."""
        files = parquet_files(folder, "test")
        if files:
            for row, fields in enumerate(self.parquet_rows(files, ("question", "options", "answer", "image"))):
                options, answer = fields["options"], fields["answer"]
                yield self._question(f"test-{row:05d}", fields["question"], options, answer, image_of(fields))
            return
        if not (folder / "questions").is_dir():
            raise self.missing(folder, "data/test-*.parquet or questions/")
        test_ids = folder / "ai2d_test_ids.csv"
        wanted = set(self.read_text(test_ids).split()) if test_ids.is_file() else None
        for path in sorted((folder / "questions").glob("*.json")):
            diagram = self.read_json(folder, f"questions/{path.name}")
            name = diagram["imageName"]
            if wanted is not None and not {name, Path(name).stem} & wanted:
                continue
            for text, fields in diagram["questions"].items():
                image = image_in(folder, name, *(("abc_images", "images") if fields.get("abcLabel") else ("images",)))
                image = image if image.is_file() else image_in(folder, name, "images")
                options, answer = fields["answerTexts"], fields["correctAnswer"]
                yield self._question(fields["questionId"], text, options, answer, image)

    def _question(self, key: str, text: str, options: Sequence[Any], answer: Any, image: Any) -> Question:
        choices, letter = words(options, f"question {key}: choice"), letter_of(self.name, key, int(answer), options)
        return self.question(key, text, images=[image], choices=choices, references=[letter])
