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
from dragonfly_lit.training.beside import Beside

MAX_NEW_TOKENS = 32
TRIED = 10
"""Samples of each source that are tried for each question, until one has an image."""


class SampleAnswers:
    """Answers the same few questions each time it is called; see `training.logs.Answer`.

    Args:
        processor: of the model that trains.
        mix: opens the sources, once the data are there; the questions are of the first samples with one image, the
            next question of each in turn.
        beside: catches what a single sample does; the others are answered all the same.
        then: is given the folder once the answers are in it, for loggers that show them.
    """

    def __init__(
        self,
        processor: DragonflyProcessor,
        mix: Callable[[], Mix],
        beside: Beside,
        then: Callable[[Path], None] | None = None,
    ) -> None:
        self.processor, self.mix, self.beside, self.then = processor, mix, beside, then

    def __call__(self, model: Any, folder: Path, count: int) -> None:
        """Writes `answers.jsonl` and a picture a question into `folder`."""
        # A few short answers while a GPU is full of training: no second cache for them.
        generator = BatchGenerator(model, self.processor, decoding="dynamic")
        asked = self._asked(generator, count)
        batches = generator.plan([request for _, request, _ in asked])
        outputs = {output.id: output for batch in generator.answer(batches) for output in batch}
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "answers.jsonl").open("w", encoding="utf-8") as file:
            for record, request, expected in asked:
                output = outputs[record.key]
                line = {"id": record.key, "question": request.prompt, "answer": output.text, "expected": expected}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        for record, _, _ in asked:
            with self.beside(f"the picture of {record.key}"):
                self._draw(record, outputs[record.key], folder)
        if self.then is not None:
            self.then(folder)

    def _asked(self, generator: BatchGenerator, count: int) -> list[tuple[Record, GenerationRequest, str]]:
        """Records, questions and expected answers; a sample that cannot be asked makes room for the next one."""
        found: list[tuple[Record, GenerationRequest, str]] = []
        for source in self.mix().sources:
            for index in range(min(len(source), TRIED * count)):
                if len(found) == count:
                    return found
                with self.beside(f"a sample answer of {source.name}"):
                    record = source.record(index, 0)
                    if record.key in {other.key for other, _, _ in found}:  # of another source: one picture a key
                        continue
                    if len(record.images) == 1 and [turn.role for turn in record.turns[:2]] == ["user", "assistant"]:
                        question, expected = _exchange(record, len(found))
                        request = GenerationRequest(
                            id=record.key,
                            prompt=question,
                            image_keys=(record.key,),
                            max_new_tokens=MAX_NEW_TOKENS,
                            read_images=partial(tuple, record.images),
                        )
                        decode(record.images[0])
                        generator.plan([request])
                        found.append((record, request, expected))
        return found

    def _draw(self, record: Record, output: GenerationOutput, folder: Path) -> None:
        for zoom in output.zoom or []:
            grids = Grids(Grid(*zoom["medium"]), Grid(*zoom["high"]))
            has_high = self.processor.layout.zoom.high
            picture = draw_zoom(decode(record.images[0]), grids, selected=zoom["kept"], high=has_high)
            picture.save(folder / picture_name(record.key))


def picture_name(key: str) -> str:
    """The file of a sample's picture, beside the answers."""
    return f"{key.replace('/', '_')}.png"


def _exchange(record: Record, number: int) -> tuple[str, str]:
    """Question and expected answer `number` of a record whose questions share an image, else the first."""
    pairs = [(u.text, a.text) for u, a in zip(record.turns[0::2], record.turns[1::2], strict=False)]
    return pairs[number % len(pairs)] if record.share_image else pairs[0]
