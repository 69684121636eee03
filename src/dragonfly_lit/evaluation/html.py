"""The page `report.html`: one file without any other, with scores, breakdowns and a gallery of answers."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from itertools import zip_longest
from typing import Any

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.images import RenderedImage, place_of
from dragonfly_lit.evaluation.metrics.base import RIGHT
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.scores import Scored
from dragonfly_lit.processing.images import decode

MAX_ANSWERS, MAX_TEXT_BYTES = 10_000, 16_000_000
"""Answers that the page holds at most, and their text."""
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
    shown = [(one, _examples(one, num_examples)) for one in scored]
    for _, pairs in shown:
        for question, answer in pairs[:num_examples]:
            album.add(question, answer)
    share = MAX_ANSWERS // max(1, len(shown))
    examples, size = [], 0
    for one, pairs in shown:
        turns = {of[0].id: of for of in one.turns}
        for question, answer in pairs[:share]:
            card = _card(question, answer, turns[answer.id], album)
            size += len(card["prompt"]) + len(card["output"]) + len(card["question"]) + 400
            if size <= MAX_TEXT_BYTES:
                examples.append(card)
    data = {"results": results, "examples": examples, "images": album.images, "num_left_out": album.num_left_out}
    return filled("report_page.html", data)


def filled(name: str, data: Mapping[str, Any]) -> str:
    """A page of this package with its data inside."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    template = read_asset(name).replace("/*STYLE*/", read_asset("page.css") + read_asset("answers.css"))
    template = template.replace("/*SHARED*/", read_asset("answers.js"))
    # "</script>" inside an answer would end the data, "<!--" would hide the rest of the page.
    return template.replace("/*DATA*/", text.replace("<", "\\u003c"))


def data_of(page: str) -> dict[str, Any]:
    """The data inside a page that `filled` made.

    Raises:
        ValueError: it is not such a page.
    """
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    if found is None:
        raise ValueError("the page holds no data.")
    return json.loads(found[1])


class _Album:
    """The images of the page, each once, small, and bounded together."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.num_bytes = 0
        self.num_left_out = 0

    def add(self, question: Question, answer: Answer) -> None:
        """Puts the question's images onto the page while there is room."""
        names = image_names(question, answer)
        if any(name not in self.images for name in names):
            for name, data in zip(names, question.read_images(), strict=True):
                if name in self.images:
                    continue
                image = _small(data)
                if self.num_bytes + len(image["uri"]) > MAX_IMAGE_BYTES:
                    self.num_left_out += 1
                    continue
                self.images[name], self.num_bytes = image, self.num_bytes + len(image["uri"])


def image_names(question: Question, answer: Answer) -> list[str]:
    """What the images of a question are called on the page."""
    return answer.images or [f"{question.task}/{question.id}/{i}" for i in range(len(question.images))]


def _small(data: bytes) -> dict[str, Any]:
    """An encoded image as a data URI of at most `IMAGE_SIDE` pixels a side, and the size it had."""
    image = decode(data)
    width, height = image.size
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    file = BytesIO()
    image.save(file, "JPEG", quality=85)
    uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"width": width, "height": height, "uri": uri}


def _examples(one: Scored, num: int) -> list[tuple[Question, Answer]]:
    """All answers; first `num`, half right and half wrong where there are enough of both, spread over categories."""
    pairs = list(zip(one.questions, one.answers, strict=True))
    right = _spread([pair for pair in pairs if pair[1].score is not None and pair[1].score >= RIGHT])
    wrong = _spread([pair for pair in pairs if pair[1].score is None or pair[1].score < RIGHT])
    num_wrong = min(len(wrong), max(num - num // 2, num - len(right)))
    in_turn = zip_longest(wrong[:num_wrong], right[: num - num_wrong])
    first = [pair for turn in in_turn for pair in turn if pair is not None]
    known = {answer.id for _, answer in first}
    return [*first, *(pair for pair in pairs if pair[1].id not in known)]


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


def _place(question: Question) -> list[str]:
    """Where the images lie, as `ask` takes them; those that it cannot open are named by their numbers."""
    return [
        f"IMAGE_{number}" if isinstance(image, bytes | RenderedImage) else place_of(image)
        for number, image in enumerate(question.images, start=1)
    ]


def _card(question: Question, answer: Answer, turns: Sequence[Answer], album: _Album) -> dict[str, Any]:
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
        "images": [name for name in image_names(question, answer) if name in album.images],
        "about": image_names(question, answer),
        "files": _place(question),
        "turns": [[one.output, one.answer, one.score] for one in turns] if len(turns) > 1 else None,
        "zoom": answer.zoom,
    }
