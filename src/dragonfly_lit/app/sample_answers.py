"""A few questions that a run answers along the way, with pictures of the selected crops."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dragonfly_lit.data.mix import Mix
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.requests import GenerationOutput, GenerationRequest
from dragonfly_lit.evaluation.zoom_picture import draw_zoom
from dragonfly_lit.processing.images import decode
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.spec.layout import Grid, Grids
from dragonfly_lit.spec.records import Record

MAX_NEW_TOKENS = 32
TRIED = 10
"""Samples of each source that are tried for each question, until one has an image."""


class SampleAnswers:
    """Answers the same few questions each time it is called; see `training.logs.Answer`.

    Args:
        processor: of the model that trains.
        mix: opens the sources, once the data are there; the questions are of the first samples with one image, the
            next question of each in turn.
    """

    def __init__(self, processor: DragonflyProcessor, mix: Callable[[], Mix]) -> None:
        self.processor, self.mix = processor, mix

    def __call__(self, model: Any, folder: Path, count: int) -> None:
        """Writes `answers.jsonl` and a picture a question into `folder`."""
        records = self._records(count)
        exchanges = [_exchange(record, number) for number, record in enumerate(records)]
        requests = [
            GenerationRequest(
                id=record.key,
                prompt=question,
                image_keys=(record.key,),
                max_new_tokens=MAX_NEW_TOKENS,
                read_images=partial(tuple, record.images),
            )
            for record, (question, _) in zip(records, exchanges, strict=True)
        ]
        generator = BatchGenerator(model, self.processor)
        outputs = {output.id: output for batch in generator.answer(generator.plan(requests)) for output in batch}
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "answers.jsonl").open("w") as file:
            for record, (question, expected) in zip(records, exchanges, strict=True):
                output = outputs[record.key]
                line = {"id": record.key, "question": question, "answer": output.text, "expected": expected}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                self._draw(record, output, folder)

    def _records(self, count: int) -> list[Record]:
        found: list[Record] = []
        for source in self.mix().sources:
            for index in range(min(len(source), TRIED * count)):
                record = source.record(index, 0)
                if len(found) < count and len(record.images) == 1 and record.turns[0].role == "user":
                    found.append(record)
        return found

    def _draw(self, record: Record, output: GenerationOutput, folder: Path) -> None:
        for zoom in output.zoom or []:
            grids = Grids(Grid(*zoom["medium"]), Grid(*zoom["high"]))
            has_high = self.processor.layout.zoom.high
            picture = draw_zoom(decode(record.images[0]), grids, selected=zoom["kept"], high=has_high)
            picture.save(folder / f"{record.key.replace('/', '_')}.png")


def _exchange(record: Record, number: int) -> tuple[str, str]:
    """Question and expected answer `number` of a record whose questions share an image, else the first."""
    pairs = [(u.text, a.text) for u, a in zip(record.turns[0::2], record.turns[1::2], strict=False)]
    return pairs[number % len(pairs)] if record.share_image else pairs[0]
