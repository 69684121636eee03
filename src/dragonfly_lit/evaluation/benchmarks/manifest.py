"""A set of your own: a file of questions, and one of the metrics or your own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.benchmarks.tables import has_images, image_of, parquet_columns
from dragonfly_lit.evaluation.images import StoredImage
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.caption import Captions
from dragonfly_lit.evaluation.metrics.choice import MultipleChoice
from dragonfly_lit.evaluation.metrics.medical import MedicalVQA
from dragonfly_lit.evaluation.metrics.short import ANLS, ExactMatch, RelaxedAccuracy
from dragonfly_lit.evaluation.metrics.vqa import VQAAccuracy
from dragonfly_lit.evaluation.metrics.yes_no import POPE
from dragonfly_lit.evaluation.parsers import LETTERS
from dragonfly_lit.io.imports import locate
from dragonfly_lit.spec.medical_vqa import answer_type

MetricFactory = Callable[[Sequence[Question]], QuestionMetric]
METRICS: Mapping[str, type[QuestionMetric]] = {
    "exact_match": ExactMatch,
    "vqa_accuracy": VQAAccuracy,
    "relaxed_accuracy": RelaxedAccuracy,
    "anls": ANLS,
    "multiple_choice": MultipleChoice,
    "yes_no": POPE,
    "medical_vqa": MedicalVQA,
    "captions": Captions,
}
NUM_ANNOTATORS = 10
FIELDS = (
    "id", "question_id", "question", "image", "images", "answer", "answers", "choices", "options", "category", "split",
    "hint", "answer_type",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Manifest(Benchmark):
    """Questions of a JSONL, JSON or parquet file.

    A row has `question`; `image` or `images` (paths beside the file; in parquet the images themselves will do);
    `answer` or `answers`; and may have `id`, `choices`, `category`, `split`, `hint` and `answer_type` (open or closed).
    The answer of a multiple-choice question is a letter, a number from 0, or the choice itself. For `vqa_accuracy` one
    answer counts as ten people who agree.

    Attributes:
        name: of the set, in the results.
        manifest: the file.
        metric_name: how it is called in the results.
        make_metric: a class of metric, or one with some arguments given.
    """

    splits = ("",)  # the file is the set
    expects = "one JSON object a line, or a parquet file"

    name: str = "my_set"  # pyright: ignore[reportIncompatibleVariableOverride] - of the class elsewhere
    manifest: str | Path = ""
    metric_name: str = "exact_match"
    make_metric: MetricFactory = ExactMatch
    split: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.manifest:
            raise ValueError("benchmark.manifest is empty: give a file of questions (.jsonl, .json or .parquet).")

    @property
    def metric_type(self) -> type[QuestionMetric]:  # pyright: ignore[reportIncompatibleVariableOverride] - likewise
        """The class that scores, which knows its headline."""
        return _class_of(self.make_metric)

    @property
    def parser(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - likewise
        """The rule is the metric's."""
        return self.metric_name

    def locate(self, data_root: str | Path) -> Path:
        """The manifest; a relative path is searched in the working folder, then below `data_root`."""
        path = Path(self.manifest)
        found = next((p for p in (path, Path(data_root) / path) if p.is_file()), None)
        if found is None:
            raise ValueError(f"benchmark.manifest={path}: there is no such file, nor {Path(data_root) / path}.")
        return found

    def read(self, folder: Path) -> Iterable[Question]:
        """The questions of the file `folder`, in its order."""
        rows = self._parquet(folder) if folder.suffix == ".parquet" else self._lines(folder)
        for number, (row, images) in enumerate(rows, start=1):
            unknown = [key for key in row if key not in FIELDS and not key.startswith("_")]
            if "question" not in row:
                raise ValueError(f"{folder}: row {number} has no question; it has {', '.join(row) or 'nothing'}.")
            if unknown:
                raise ValueError(f"{folder}: row {number} has the field {unknown[0]!r}; use {', '.join(FIELDS)}.")
            yield self._question(row, number, images)

    def _lines(self, path: Path) -> Iterable[tuple[dict[str, Any], tuple[Path, ...]]]:
        rows = self.read_json(path.parent, path.name)
        for number, row in enumerate([rows] if isinstance(rows, dict) else rows, start=1):
            if not isinstance(row, dict):
                raise ValueError(f"{path}: row {number} is {row!r:.40}; each is an object with a question.")
            yield row, tuple(path.parent / name for name in _listed(row, "images", "image"))

    def _parquet(self, path: Path) -> Iterable[tuple[dict[str, Any], tuple[Path | StoredImage, ...]]]:
        columns = parquet_columns(path)
        stored = "image" in columns and not _is_text(path, "image")
        filled = has_images(path) if stored else []
        wanted = [name for name in columns if not (stored and name == "image")]
        for number, row in enumerate(self.parquet_rows([path], (), wanted)):
            row = {key: value for key, value in row.items() if value is not None}
            paths = tuple(path.parent / name for name in _listed(row, "images", "image"))
            yield row, (image_of(row),) if stored and filled[number] else paths

    def _question(self, row: Mapping[str, Any], number: int, images: Sequence[Path | StoredImage]) -> Question:
        key = str(row.get("id", row.get("question_id", f"row-{number:06d}")))
        choices = row.get("choices", row.get("options"))
        answers = [str(answer) for answer in _listed(row, "answers", "answer")]
        if choices is not None:
            answers = [_letter(key, answer, choices) for answer in answers]
        elif self.metric_name == "vqa_accuracy" and len(answers) == 1:
            answers *= NUM_ANNOTATORS
        kind = str(row.get("answer_type") or answer_type(answers[0] if answers else ""))
        return self.question(
            key,
            str(row["question"]),
            images=images,
            references=answers,
            choices=tuple(map(str, choices)) if choices is not None else None,
            category=str(row.get("category", "")),
            split=str(row.get("split", "")),
            meta={"hint": row.get("hint", ""), "answer_type": kind.lower()},
        )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """The chosen metric."""
        return self.make_metric(questions)


def manifest(name: str, manifest: str | Path, metric: str | MetricFactory, **options: Any) -> Manifest:
    """A set of your own, as `conf/benchmark/my_set.yaml` describes it.

    Args:
        name: of the set.
        manifest: its file.
        metric: one of `METRICS`, or a class of your own as `module.Class`, or such a class with arguments given.
        options: `limit` and `max_new_tokens`.

    Raises:
        ValueError: there is no such metric.
    """
    if not isinstance(metric, str):
        make, called = metric, _class_of(metric).__name__
    elif "." in metric:  # the user's own configuration names it, so its module may be imported
        make, called = locate(metric, where="benchmark.metric", trusted=[metric], base=QuestionMetric), metric
    elif metric in METRICS:
        make, called = METRICS[metric], metric
    else:
        raise ValueError(
            f"benchmark.metric={metric!r}: use one of {', '.join(METRICS)}, or a class of your own, module.Class."
        )
    return Manifest(name=name, manifest=manifest, metric_name=called, make_metric=make, **options)


def _class_of(make: MetricFactory) -> type[QuestionMetric]:
    found = make.func if isinstance(make, partial) else make
    if not (isinstance(found, type) and issubclass(found, QuestionMetric)):
        raise ValueError(f"benchmark.metric: {found!r} is not a subclass of QuestionMetric. Derive it from it.")
    return found


def _listed(row: Mapping[str, Any], several: str, one: str) -> list[Any]:
    value = row.get(several, row.get(one))
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _letter(key: str, answer: str, choices: Sequence[Any]) -> str:
    texts = list(map(str, choices))
    letters = LETTERS[: len(texts)]
    if answer in texts:
        return letters[texts.index(answer)]
    if answer.isdecimal() and int(answer) < len(texts):
        return letters[int(answer)]
    if len(answer) == 1 and answer.upper() in letters:
        return answer.upper()
    raise ValueError(f"question {key}: the answer {answer!r} is neither a letter, a number nor one of {texts}.")


def _is_text(path: Path, column: str) -> bool:
    kind = pq.ParquetFile(path).schema_arrow.field(column).type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
