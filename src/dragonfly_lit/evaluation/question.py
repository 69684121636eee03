"""A question of a benchmark, with its images where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dragonfly_lit.evaluation.images import AnyImage, key_of


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a benchmark, as its data set words it; the prompt template is applied later.

    Attributes:
        id: unique within the benchmark, the same on every machine, and in every layout that numbers its questions.
        task: name of the benchmark.
        text: the question without choices, hints or instructions.
        images: where the images are; empty for a text-only question. Read them with `read_images`.
        references: accepted answers: ten human ones, one gold one, captions, or the letter of the right choice.
        choices: texts of the choices of a multiple-choice question, else None.
        category: what the breakdown groups by (subject, subtask, question type).
        split: the part of the benchmark that is scored apart (human or augmented, random or popular).
        meta: what a prompt or a metric needs besides (hint, OCR tokens, answer type, pair).
    """

    id: str
    task: str
    text: str
    images: tuple[AnyImage, ...] = ()
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    category: str = ""
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Identity of each image: questions with equal keys have the same images, so their prefix can be shared."""
        return tuple(key_of(image) for image in self.images)

    def read_images(self) -> tuple[bytes, ...]:
        """The encoded images; a ValueError names the question when one is missing."""
        try:
            return tuple(image if isinstance(image, bytes) else image.read_bytes() for image in self.images)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.task}: question {self.id}: its image cannot be read: {error}") from error
