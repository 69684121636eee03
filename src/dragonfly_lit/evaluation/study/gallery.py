"""Pictures of the crops that the models of a study selected: the first test images of each size, not chosen ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.study.cells import Cell, Study
from dragonfly_lit.evaluation.zoom_picture import draw_zoom
from dragonfly_lit.processing.images import decode
from dragonfly_lit.spec.layout import Grid, Grids

SIDE = 640
DETAIL = (230, 0, 120)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example of the gallery.

    Attributes:
        id: of the question.
        size: of the detail, as `Study.sizes` has it.
        cell: title of the cell whose selection is drawn.
        question: its words.
        expected: the right answer.
        answers: title, answer and whether it is right, for each cell.
        picture: a JPEG of the crop grid with scores, the selected crops bright and the detail outlined.
    """

    id: str
    size: str
    cell: str
    question: str
    expected: str
    answers: tuple[tuple[str, str, bool], ...]
    picture: bytes


def gallery(study: Study, questions: Sequence[Question], *, per_size: int = 2) -> tuple[list[Example], str]:
    """The examples, and a note about them; without any where the questions or the answers are gone."""
    selecting = [c for c in study.cells if c.selection(study.benchmark, "recall") is not None]
    if not selecting:
        return [], "No finished cell selects crops, so there is nothing to show."
    if not questions:
        return [], "The questions are no longer where the sweep read them, so there is nothing to show."
    answers = {cell.name: _answers(study, cell) for cell in study.cells if cell.results}
    examples = []
    for size in study.sizes:
        images: dict[str, Question] = {}
        for question in questions:
            if question.split == size and question.meta.get("box") is not None:
                images.setdefault(question.image_keys[0], question)
        for number, question in enumerate(list(images.values())[:per_size]):
            cell = selecting[number % len(selecting)]
            answer = answers[cell.name].get(question.id)
            if answer is not None and answer.zoom:
                examples.append(_example(study, question, cell, answer, answers))
    note = (
        f"The first {per_size} test images of each size, as the first finished seed saw them. Orange lines part the "
        "medium crops, bright crops are the selected high ones, each with its score, and the detail in question is "
        "outlined in pink."
    )
    return examples, note


def _example(
    study: Study, question: Question, cell: Cell, answer: Answer, answers: dict[str, dict[str, Answer]]
) -> Example:
    outputs = []
    for other in study.cells:
        given = answers.get(other.name, {}).get(question.id)
        if given is not None:
            outputs.append((other.title, given.output, bool(given.score)))
    return Example(
        id=question.id,
        size=question.split,
        cell=cell.title,
        question=question.text,
        expected=question.references[0],
        answers=tuple(outputs),
        picture=_picture(question, (answer.zoom or [{}])[0]),
    )


def _picture(question: Question, zoom: dict[str, Any]) -> bytes:
    image: Image.Image = decode(question.read_images()[0])
    grids = Grids(Grid(*zoom["medium"]), Grid(*zoom["high"]))
    picture = draw_zoom(image, grids, zoom.get("scores"), zoom["kept"], side=SIDE)
    scale = SIDE / max(image.size)
    left, top, right, bottom = (round(scale * edge) for edge in question.meta["box"])
    ImageDraw.Draw(picture).rectangle((left - 3, top - 3, right + 2, bottom + 2), outline=DETAIL, width=3)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return file.getvalue()


def _answers(study: Study, cell: Cell) -> dict[str, Answer]:
    seed, result = next(iter(cell.results.items()))
    entry = result["benchmarks"].get(study.benchmark)
    if entry is None:
        return {}
    path: Path = cell.folders[seed] / entry["folder"] / entry["answers"]
    return {answer.id: answer for answer in store.read(path).values()}
