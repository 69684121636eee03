"""Probes: questions about one small detail of a large photograph, by kind and by the detail's size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.io.tar import files_in
from dragonfly_lit.spec.samples import Record
from dragonfly_lit.spec.shard import record_from_json


@dataclass(frozen=True, kw_only=True)
class Probes(Benchmark):
    """The shards that `python -m data_prep probes` writes; every answer is one word or one digit.

    A question's `meta` has the box of the detail it asks about (None where it counts), the size of the details as a
    share of the side, and the side of the canvas in pixels.
    """

    name = "probes"
    title = "Probes: small details on photographs"
    original = "python -m data_prep probes"
    verified = "made by this project: files, counts and boxes follow from its own generator"
    licence = "BSD-3-Clause (scikit-learn's digits), public domain and CC0 (scikit-image's photographs)"
    expects = "SPLIT/*.tar as `python -m data_prep probes` writes them"
    splits = ("test", "train")
    metric_type = ExactMatch
    asked_with = "released"  # as the models of the studies are trained

    max_new_tokens: int = 8

    def read(self, folder: Path) -> Iterable[Question]:
        """The questions in the order of the shards, `test-000000-0` and on."""
        for record in _records(self.name, folder / self.split):
            meta = record.meta
            details = zip(meta["question_ids"], meta["kinds"], meta["boxes"], strict=True)
            turns = zip(record.turns[0::2], record.turns[1::2], strict=True)
            for (key, kind, box), (user, assistant) in zip(details, turns, strict=True):
                yield self.question(
                    key,
                    user.text,
                    references=[assistant.text],
                    images=record.images,
                    category=kind,
                    split=size_name(meta["size"]),
                    meta={"box": box, "size": meta["size"], "side": meta["side"]},
                )


def size_name(size: float) -> str:
    """A detail's share of the side as a group of the breakdown: `02%`, `25%`, in the order of their sizes."""
    return f"{round(100 * size):02d}%"


def _records(name: str, folder: Path) -> Iterator[Record]:
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise ValueError(f"{name}: {folder} has no shards. Make them with: python -m data_prep {name}")
    for shard in shards:
        members: dict[str, dict[str, Any]] = {}
        for name, content in files_in(shard):
            key, _, extension = name.partition(".")
            members.setdefault(key, {})[extension] = content
        for key, found in members.items():
            fields = json.loads(found.pop("json"))
            yield record_from_json(key, fields, tuple(found.values()))
