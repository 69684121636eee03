"""The page `report.html`: one file without any other, with scores, breakdowns and a gallery of answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from itertools import zip_longest
from typing import Any

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.metrics.base import RIGHT
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.scores import Scored
from dragonfly_lit.processing.images import decode

IMAGE_SIDE = 384
"""Longest side of an image on the page, in pixels."""
MAX_IMAGE_BYTES = 12_000_000
"""All images of the page together; what comes later is shown without its image, and the page says so."""


def read_asset(name: str) -> str:
    """A file of this package that pages are made of."""
    return files("dragonfly_lit.evaluation").joinpath(name).read_text(encoding="utf-8")


def page(results: Mapping[str, Any], scored: Sequence[Scored], *, num_examples: int) -> str:
    """The whole page.

    Args:
        results: what `results.json` holds.
        scored: the benchmarks with questions and answers.
        num_examples: answers of each benchmark in the gallery.
    """
    album = _Album()
    examples = [card for one in scored for card in _examples(one, num_examples, album)]
    data = {"results": results, "examples": examples, "images": album.images, "num_left_out": album.num_left_out}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    template = read_asset("report_page.html").replace("/*STYLE*/", read_asset("page.css"))
    # "</script>" inside an answer would end the data, "<!--" would hide the rest of the page.
    return template.replace("/*DATA*/", text.replace("<", "\\u003c"))


class _Album:
    """The images of the page, each once, small, and bounded together."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.num_bytes = 0
        self.num_left_out = 0

    def add(self, question: Question, answer: Answer) -> list[str]:
        """The names of the question's images."""
        names = answer.images or [f"{question.task}/{question.id}/{i}" for i in range(len(question.images))]
        if any(name not in self.images for name in names):
            for name, data in zip(names, question.read_images(), strict=True):
                if name in self.images:
                    continue
                image = _small(data)
                if self.num_bytes + len(image["uri"]) > MAX_IMAGE_BYTES:
                    self.num_left_out += 1
                    continue
                self.images[name], self.num_bytes = image, self.num_bytes + len(image["uri"])
        return [name for name in names if name in self.images]


def _small(data: bytes) -> dict[str, Any]:
    """An encoded image as a data URI of at most `IMAGE_SIDE` pixels a side, and the size it had."""
    image = decode(data)
    width, height = image.size
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    file = BytesIO()
    image.save(file, "JPEG", quality=85)
    uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"width": width, "height": height, "uri": uri}


def _examples(one: Scored, num: int, album: _Album) -> list[dict[str, Any]]:
    """Half right and half wrong answers where there are enough of both, spread over the categories."""
    pairs = list(zip(one.questions, one.answers, strict=True))
    right = _spread([pair for pair in pairs if pair[1].score is not None and pair[1].score >= RIGHT])
    wrong = _spread([pair for pair in pairs if pair[1].score is None or pair[1].score < RIGHT])
    num_wrong = min(len(wrong), max(num - num // 2, num - len(right)))
    in_turn = zip_longest(wrong[:num_wrong], right[: num - num_wrong])
    return [_card(pair[0], pair[1], album) for turn in in_turn for pair in turn if pair is not None]


def _spread(pairs: list[tuple[Question, Answer]]) -> list[tuple[Question, Answer]]:
    """One of each category in turn, evenly over the file."""
    groups: dict[tuple[str, str], list] = {}
    for pair in pairs:
        groups.setdefault((pair[0].split, pair[0].category), []).append(pair)
    turns = []
    for group in groups.values():
        step = max(1, len(group) // 16)
        order = [*group[::step], *(pair for i, pair in enumerate(group) if i % step)]
        turns += [(turn, place, pair) for place, (turn, pair) in enumerate(enumerate(order))]
    turns.sort(key=lambda item: item[0])
    return [pair for _, _, pair in turns]


def _card(question: Question, answer: Answer, album: _Album) -> dict[str, Any]:
    verdict = "unscored" if answer.score is None else "right" if answer.score >= RIGHT else "wrong"
    return {
        "benchmark": question.task,
        "id": question.id,
        "question": question.text,
        "prompt": answer.prompt,
        "choices": question.choices,
        "accepted": list(dict.fromkeys(question.references)),
        "output": answer.output,
        "answer": answer.answer,
        "lenient": answer.lenient_answer,
        "score": answer.score,
        "lenient_score": answer.lenient_score,
        "verdict": verdict,
        "category": question.category,
        "split": question.split,
        "images": album.add(question, answer),
        "zoom": answer.zoom,
    }
