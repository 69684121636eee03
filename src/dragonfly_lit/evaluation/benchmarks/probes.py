"""Probes: questions about one small detail of a large photograph, by kind and by the detail's size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.io.tar import files_in
from dragonfly_lit.spec.records import Record
from dragonfly_lit.spec.shard import record_from_json


@dataclass(frozen=True, kw_only=True)
class Probes(Task):
    """The shards that `python -m data_prep probes` writes.

    A question's `meta` has the box of the detail it asks about (None where it counts), the size of the details as a
    share of the side, and the side of the canvas in pixels.
    """

    name: ClassVar[str] = "probes"
    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    expects: ClassVar[str] = "SPLIT/*.tar as `python -m data_prep probes` writes them"

    def read(self, folder: Path) -> Iterable[Question]:
        """The questions in the order of the shards, `test-000000-0` and on."""
        for record in _records(folder / self.split):
            meta = record.meta
            asked = zip(
                meta["question_ids"], meta["kinds"], meta["boxes"], record.turns[0::2], record.turns[1::2], strict=True
            )
            for name, kind, box, user, assistant in asked:
                yield Question(
                    id=name,
                    task=self.name,
                    text=user.text,
                    references=(assistant.text,),
                    images=record.images,
                    category=kind,
                    split=size_name(meta["size"]),
                    meta={"box": box, "size": meta["size"], "side": meta["side"]},
                )

    def metric(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None = None) -> QuestionMetric:
        """Exact match; every answer is one word or one digit."""
        return ExactMatch(questions)


def size_name(size: float) -> str:
    """A detail's share of the side as a group of the breakdown: `02%`, `25%`, in the order of their sizes."""
    return f"{round(100 * size):02d}%"


def _records(folder: Path) -> Iterator[Record]:
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise ValueError(f"probes: {folder} has no shards. Make them with: python -m data_prep probes")
    for shard in shards:
        members: dict[str, dict[str, Any]] = {}
        for name, content in files_in(shard):
            key, _, extension = name.partition(".")
            members.setdefault(key, {})[extension] = content
        for key, found in members.items():
            fields = json.loads(found.pop("json"))
            yield record_from_json(key, fields, tuple(found.values()))
