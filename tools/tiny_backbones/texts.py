"""What is said about a drawn shape: captions, questions and answers, phrased in easy-VQA's manner and in others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

COLOURS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow", "orange", "purple", "pink")
SHAPES = ("triangle", "rectangle", "circle", "star", "cross")

_ABOUT_SHAPE = (
    "what shape is in the image?", "what shape does the image contain?", "what shape is present?",
    "what shape is this?", "which shape is it?", "what shape do you see?", "name the shape.",
    "what is the shape of the object?", "which shape is shown?",
)  # fmt: skip
_ABOUT_NAMED_COLOUR = ("what is the {colour} shape?", "which shape is {colour}?", "what is the {colour} object?")
_ABOUT_COLOUR = (
    "what color is the shape?", "what is the color of the shape?", "what color is the {shape}?",
    "what is the color of the {shape}?", "which color is the {shape}?", "which color does the {shape} have?",
    "name the color.", "what color do you see?",
)  # fmt: skip
_IS_THERE = (
    "is there a {thing}?", "is there a {thing} in the image?", "is a {thing} present?",
    "does the image contain a {thing}?", "does the image show a {thing}?", "can you see a {thing}?",
)  # fmt: skip
_IS_THERE_NO = (
    "is there not a {thing}?", "is there not a {thing} in the image?", "is no {thing} present?",
    "does the image not contain a {thing}?", "is there no {thing}?", "does the image show no {thing}?",
)  # fmt: skip
_DESCRIBE = (
    "Describe the image.", "describe the image.", "what is in the image?", "what do you see?", "give a short caption.",
)  # fmt: skip
HINTS = ("Answer with one word.", "Answer the question using a single word or phrase.", "Answer briefly.")


def caption(colour: str, shape: str) -> str:
    """The sentence that describes a scene: "a red triangle", "an orange star"."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


class Asked(NamedTuple):
    """One question about a scene.

    Attributes:
        text: the question.
        answer: a colour, a shape, yes, no, or the caption.
        holds: whether what a yes-or-no question names is there, negated or not; None for the others.
        negated: whether a yes-or-no question asks for absence; None for the others.
    """

    text: str
    answer: str
    holds: bool | None = None
    negated: bool | None = None


def ask(colour: str, shape: str, rng: np.random.Generator, share_negated: float = 0.5) -> Asked:
    """A random question about a scene.

    Args:
        colour: of the scene's shape.
        shape: its kind.
        rng: of the choice.
        share_negated: how many of the questions answered by yes or no ask for absence.
    """
    kind = rng.random()
    if kind < 0.08:
        return Asked(_pick(_DESCRIBE, rng), caption(colour, shape))
    if kind < 0.26:
        return Asked(
            _pick(_ABOUT_SHAPE if rng.random() < 0.7 else _ABOUT_NAMED_COLOUR, rng).format(colour=colour), shape
        )
    if kind < 0.42:
        return Asked(_pick(_ABOUT_COLOUR, rng).format(shape=shape), colour)
    asked_colour = colour if rng.random() < 0.5 else _pick(COLOURS, rng)
    asked_shape = shape if rng.random() < 0.5 else _pick(SHAPES, rng)
    form = rng.random()
    if form < 0.45:
        thing, holds = f"{asked_colour} shape", asked_colour == colour
    elif form < 0.9:
        thing, holds = asked_shape, asked_shape == shape
    else:
        thing, holds = f"{asked_colour} {asked_shape}", asked_colour == colour and asked_shape == shape
    negated = rng.random() < share_negated
    text = _pick(_IS_THERE_NO if negated else _IS_THERE, rng).format(thing=thing).replace(" a orange", " an orange")
    return Asked(text, "yes" if holds != negated else "no", holds, negated)


def every_sentence() -> Iterator[str]:
    """The whole text of the world, once each: what the tokenizer is trained on."""
    things = [*SHAPES, *(f"{c} shape" for c in COLOURS)]
    for group in (_ABOUT_SHAPE, _DESCRIBE, HINTS, COLOURS, SHAPES, ("yes", "no", "user", "assistant", "system")):
        yield from group
    for shape in SHAPES:
        yield from (text.format(shape=shape) for text in _ABOUT_COLOUR)
        yield from (caption(colour, shape) for colour in COLOURS)
    for colour in COLOURS:
        yield from (text.format(colour=colour) for text in _ABOUT_NAMED_COLOUR)
    for thing in things:
        yield from (text.format(thing=thing) for text in (*_IS_THERE, *_IS_THERE_NO))
