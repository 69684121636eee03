"""Where each selecting cell looked on the same images: the first test images of each size, not chosen ones."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.selection import found
from dragonfly_lit.evaluation.study.cells import Cell, Study
from dragonfly_lit.evaluation.zoom_picture import draw_zoom
from dragonfly_lit.processing.images import decode
from dragonfly_lit.spec.layout import Grid, Grids

SIDE = 320
DETAIL = (230, 0, 120)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Where one cell looked on an image.

    Attributes:
        cell: title of the cell.
        output: its answer.
        right: whether that is right.
        found: whether the crop that holds most of the detail was kept.
        picture: a JPEG of the crop grid, the selected crops bright and the detail outlined.
    """

    cell: str
    output: str
    right: bool
    found: bool
    picture: bytes


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image of the gallery, with what every selecting cell saw of it.

    Attributes:
        id: of the question.
        size: of the detail, as `Study.sizes` has it.
        question: its words.
        expected: the right answer.
        looks: one for each cell that selects crops.
        answers: title, answer and whether it is right, for each of the other cells.
    """

    id: str
    size: str
    question: str
    expected: str
    looks: tuple[Look, ...]
    answers: tuple[tuple[str, str, bool], ...]


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
        for question in list(images.values())[:per_size]:
            example = _example(study, question, [cell.name for cell in selecting], answers)
            if example.looks:
                examples.append(example)
    note = (
        f"The first {per_size} test images of each size, as the first finished seed of each selecting cell saw them. "
        "Orange lines part the medium crops, bright crops are the selected high ones, and the detail in question is "
        "outlined in pink. Below each picture: the cell, whether the crop with most of the detail is among the kept, "
        "and the answer."
    )
    return examples, note


def _example(
    study: Study, question: Question, selecting: Sequence[str], answers: dict[str, dict[str, Answer]]
) -> Example:
    looks, others = [], []
    for cell in study.cells:
        given = answers.get(cell.name, {}).get(question.id)
        if given is None:
            continue
        hit, _ = found(question, given)
        if cell.name in selecting and given.zoom and not math.isnan(hit):
            picture = _picture(question, given.zoom[0])
            looks.append(
                Look(cell=cell.title, output=given.output, right=bool(given.score), found=hit == 1, picture=picture)
            )
        else:
            others.append((cell.title, given.output, bool(given.score)))
    return Example(
        id=question.id,
        size=question.split,
        question=question.text,
        expected=question.references[0],
        looks=tuple(looks),
        answers=tuple(others),
    )


def _picture(question: Question, zoom: dict[str, Any]) -> bytes:
    image: Image.Image = decode(question.read_images()[0])
    grids = Grids(Grid(*zoom["medium"]), Grid(*zoom["high"]))
    picture = draw_zoom(image, grids, None, zoom["kept"], side=SIDE)
    scale = SIDE / max(image.size)
    left, top, right, bottom = (round(scale * edge) for edge in question.meta["box"])
    ImageDraw.Draw(picture).rectangle((left - 3, top - 3, right + 2, bottom + 2), outline=DETAIL, width=2)
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
