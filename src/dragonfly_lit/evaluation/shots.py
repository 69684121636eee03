"""Examples in front of a question: questions of another split with their answers, drawn by a seed that is named."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase

from dragonfly_lit.evaluation.asking import prompt_of
from dragonfly_lit.evaluation.benchmarks.base import Benchmark
from dragonfly_lit.evaluation.prompts import placed
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.settings import Settings

SPLITS = ("train", "validation", "val", "dev", "minival")
"""Where examples are looked for, in this order."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An example: its question, prompt and answer."""

    question: Question
    prompt: str
    answer: str
    places: tuple[int, ...] = ()
    """Where in the prompt the images stand, in characters before each; empty where all stand before it."""

    def in_place(self) -> Shot:
        """The example with its images where its prompt names them by their numbers, in the order of their places."""
        prompt, places, order = placed(self.prompt, len(self.question.images))
        images = tuple(self.question.images[number] for number in order)
        return replace(self, prompt=prompt, places=places, question=replace(self.question, images=images))


def shots(benchmark: Benchmark, settings: Settings) -> tuple[Shot, ...]:
    """The examples of a benchmark, the same for all of its questions.

    Raises:
        ValueError: the benchmark has no other split, or that one too few questions.
    """
    if not settings.shots:
        return ()
    split = settings.shots_split or next((s for s in SPLITS if s in benchmark.splits and s != benchmark.split), None)
    others = [each for each in benchmark.splits if each != benchmark.split]
    if split not in others:
        raise ValueError(
            f"shots={settings.shots}: {benchmark.name} has {', '.join(map(repr, others)) or 'no split'} beside "
            f"{benchmark.split!r} to take examples from" + (f", not {split!r}." if split else ".")
        )
    found = replace(benchmark, split=split, limit=None).questions(settings.data_root)
    if len(found) < settings.shots:
        raise ValueError(f"shots={settings.shots}: the split {split} of {benchmark.name} has {len(found)} questions.")
    chosen = random.Random(f"{settings.shots_seed}/{benchmark.name}").sample(range(len(found)), settings.shots)
    return tuple(
        Shot(question=question, prompt=prompt_of(benchmark, question, settings), answer=_answer(question, settings))
        for question in (found[place] for place in chosen)
    )


def _answer(question: Question, settings: Settings) -> str:
    """The letter of the right choice, or its text where texts are compared; else the answer that most people gave."""
    answer = Counter(question.references).most_common(1)[0][0]
    if settings.by_text and question.choices and answer in ascii_uppercase[: len(question.choices)]:
        return question.choices[ascii_uppercase.index(answer)]
    return answer


def images_of(examples: Sequence[Shot]) -> tuple[bytes, ...]:
    """The encoded images of the examples, in their order."""
    return tuple(data for shot in examples for data in shot.question.read_images())
