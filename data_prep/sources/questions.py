"""Questions and their answers, with choices or without, and all questions about one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dragonfly_lit.evaluation.prompts import LETTER, Template
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.spec.rows import Row
from dragonfly_lit.spec.samples import Turn
from dragonfly_lit.spec.unread import check_no_choices

from .conversations import Options, RawConversation, finish
from .images import check_images, image_cells, images_of
from .turns import make_turn

CHOICES = ("choices", "options")
MULTIPLE_CHOICE = Template(text=f"{{context}}{{question}}\n{{options}}{LETTER}")
"""How a question with choices is put: as ScienceQA is asked."""


def question_turns(row: Row, options: Options, questions: Sequence[str], answers: Sequence[str]) -> list[Turn]:
    """A question and its answer; with choices it is put as `MULTIPLE_CHOICE`, and the answer is a letter.

    A number is an answer, but not under the name `label`, where it stands for a class. Of several answers the most
    frequent is taken, the first of them on a tie.

    Args:
        row: that has them.
        options: of the command line.
        questions: names of the question's cell.
        answers: names of the answer's cell.
    """
    asked, name = row.pick(*questions, wanted="a text"), row.pick(*answers, wanted="a text or a whole number")
    question, choices = make_turn(row, asked, "user", row.text(asked), options), row.choices(*CHOICES)
    value = row.raw(name)
    if choices is None:
        check_no_choices(row, *CHOICES)
        answer = _most(row, name, numbers=name != "label")
    else:
        said = _most(row, name, numbers=True) if isinstance(value, list | tuple) else value
        answer = row.letter(name, said, choices)
        meta = {"hint": row.text_or("", "hint")}
        put = MULTIPLE_CHOICE.render(Question(id="", task="", text=question.text, choices=choices, meta=meta))
        question = replace(question, text=put)
    return [question, make_turn(row, name, "assistant", answer, options)]


def _most(row: Row, name: str, *, numbers: bool) -> str:
    answers = row.texts(name, numbers=numbers)
    return Counter(answers).most_common(1)[0][0]


def questions_about(
    rows: Sequence[Row],
    options: Options,
    *images: str,
    answers: Sequence[str] = ("answer",),
    name: str = "",
    **meta: Any,
) -> RawConversation:
    """All questions of `rows` about the image of the first.

    Args:
        rows: with `question` and `answer`, and `choices` where they have some.
        options: of the command line.
        images: names of the cell of the image, which is not empty.
        answers: names of the cell of the answer.
        name: of the conversation.
        meta: what is kept beside it.
    """
    first = rows[0]
    first.pick(*image_cells(first, options.image_columns, *images))
    found = images_of(first, options.image_columns, *images)
    for other in rows[1:]:
        other.read |= first.read
        check_images(other, (), found)
    turns = [turn for row in rows for turn in question_turns(row, options, ("question",), answers)]
    return finish(first, name, turns, found, share_image=options.share_image, **meta)
