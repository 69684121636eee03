"""The questions of a benchmark on their way to answers, which are appended to a file as they come."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.asking import Asking, asks, prompt_of
from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.prompts import placed
from dragonfly_lit.evaluation.ranks import Ranks
from dragonfly_lit.evaluation.requests import GenerationOutput, GenerationRequest, RequestBatch
from dragonfly_lit.evaluation.scores import Scorer
from dragonfly_lit.evaluation.settings import Settings
from dragonfly_lit.evaluation.shots import images_of, shots

log = logging.getLogger(__name__)


def unanswered(
    benchmark: Benchmark, asked: Sequence[Asking], settings: Settings, *, generation: Mapping, model: Mapping
) -> list[Answer]:
    """The answer to each prompt but for its output: the question as it is put, the images and the key.

    Args:
        benchmark: of the questions.
        asked: the questions, each as often as it is asked.
        settings: of the evaluation.
        generation: how answers are generated, plain values.
        model: what identifies the model, plain values.
    """
    digests = store.ImageDigests()
    answers = []
    for ask in asked:
        question = ask.question
        prompt, images = prompt_of(benchmark, question, settings), digests.of(question)
        how = {**generation, "draw": ask.turn} if settings.draws > 1 and ask.turn else {**generation}
        if settings.by_text:  # the prompt need not show what is compared behind it
            how["choices"] = question.choices
        answers.append(
            Answer(
                key=store.answer_key(question, prompt=prompt, images=images, settings=how, model=model),
                id=question.id,
                turn=ask.turn,
                task=benchmark.name,
                prompt=prompt,
                output="",
                images=list(images),
                sizes=digests.sizes(question),
                question=question.text,
                choices=None if question.choices is None else list(question.choices),
                references=list(question.references),
                category=question.category,
                split=question.split,
            )
        )
    return answers


class Answering:
    """The questions of one benchmark on their way to answers, each scored as it comes.

    Args:
        benchmark: what is asked.
        questions: its questions.
        generator: that answers.
        settings: of the evaluation.
        model: what identifies the model, plain values.
        beside: `answers` folders of other evaluations, whose answers to the same prompts are taken.

    Raises:
        ValueError: a benchmark, a prompt, an image or a setting has something wrong, by name.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        questions: Sequence[Question],
        generator: BatchGenerator,
        settings: Settings,
        model: Mapping,
        beside: Sequence[Path],
    ) -> None:
        self.name, self.generator, self.beside = benchmark.name, generator, beside
        self.numbered = benchmark.numbers_images and generator.chat.in_place
        self.asked = {ask.id: ask for ask in asks(benchmark, questions, settings)}
        self.max_new_tokens = settings.max_new_tokens or benchmark.max_new_tokens
        self.progress, self.scorer = settings.progress, Scorer.of(benchmark, questions, settings)
        self.options, self.perturb = settings.scoring == "loglikelihood", settings.perturb
        self.length = settings.likelihood_length if settings.by_text else None
        self.examples = shots(benchmark, settings)
        if self.numbered:
            self.examples = tuple(shot.in_place() for shot in self.examples)
        if self.examples and generator.by_question:
            raise ValueError(
                f"shots={settings.shots}: this model's zoom selects crops by the first question of a conversation "
                "(zoom.score=question), which would be that of an example. Give shots=0."
            )
        drawn = {"temperature": settings.temperature, "seed": settings.seed} if settings.temperature else {}
        generation = {
            "max_new_tokens": self.max_new_tokens,
            **drawn,
            "resize": generator.resize,
            "dtype": str(generator.model.dtype),
            **self._differently(),
        }
        open_answers = unanswered(benchmark, [*self.asked.values()], settings, generation=generation, model=model)
        self.unanswered = dict(zip(self.asked, open_answers, strict=True))

    def _differently(self) -> dict[str, Any]:
        """What tells these answers from those of one greedy answer to the question alone."""
        digests = store.ImageDigests()
        named = [list(digests.of(shot.question)) for shot in self.examples]
        self.example_images = [name for names in named for name in names]
        seen = [
            [shot.prompt, shot.answer, names, *([list(shot.places)] if shot.places else [])]
            for shot, names in zip(self.examples, named, strict=True)
        ]
        found = {
            "scoring": "loglikelihood" if self.options else None,
            "texts": self.length,
            "shots": store.digest(seen) if seen else None,
            "perturb": self.perturb.name if self.perturb else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _placed(self, answer: Answer) -> tuple[str, tuple[int, ...], list[int]]:
        """The prompt of an answer, where in it the question's images stand, and which of them at each place."""
        num_images = len(answer.images)
        return placed(answer.prompt, num_images) if self.numbered else (answer.prompt, (), [*range(num_images)])

    def _request(self, name: str, ask: Asking) -> GenerationRequest:
        question, answer = ask.question, self.unanswered[name]
        prompt, places, order = self._placed(answer)

        def read() -> list[bytes]:
            own = question.read_images()
            images = [*images_of(self.examples), *(own[number] for number in order)]
            return [self.perturb.of(data) for data in images] if self.perturb else images

        return GenerationRequest(
            id=name,
            prompt=prompt,
            places=places,
            example_images=tuple(len(shot.question.images) for shot in self.examples),
            example_places=tuple(shot.places for shot in self.examples),
            max_new_tokens=1 if self.options else self.max_new_tokens,
            image_keys=(*self.example_images, *(answer.images[number] for number in order)),
            read_images=read,
            examples=tuple((shot.prompt, shot.answer) for shot in self.examples),
            options=tuple(ascii_uppercase[: len(question.choices or ())]) if self.options else (),
            texts=question.choices or () if self.length else (),
            length=self.length or "tokens",
        )

    def _answer(self, output: GenerationOutput) -> Answer:
        """The answer, with what the zoom kept of the question's own images."""
        answer = self.unanswered[output.id]
        zoom = output.zoom
        if zoom:
            own = dict(zip(self._placed(answer)[2], zoom[len(self.example_images) :], strict=True))
            zoom = [own[number] for number in sorted(own)]
        return replace(answer, output=output.text, zoom=zoom, likelihoods=output.likelihoods)

    def run(self, folder: Path, ranks: Ranks) -> dict[str, Any]:
        """Appends the answers that are not there yet to this rank's file; how many, in how many seconds."""
        known = store.known(folder, self.name, self.beside)
        ranks.wait()  # everyone has read before anyone writes
        missing = {name for name, answer in self.unanswered.items() if answer.key not in known}
        start = time.perf_counter()
        mine = self._plan()[ranks.rank :: ranks.world] if missing else []
        todo = [left for batch in mine if (left := batch.only(missing)) is not None]
        total, num_todo = sum(len(batch.items) for batch in mine), sum(len(batch.items) for batch in todo)
        if ranks.first and len(missing) < len(self.asked):
            there = len(self.asked) - len(missing)
            log.warning("%s: %d answers are there, %d to go.", self.name, there, len(missing))
        path = store.file_of(folder, self.name, ranks.rank)
        with answers_bar(self.progress and ranks.first and bool(missing)) as bar:
            row = bar.add_task(self.name, total=total, completed=total - num_todo)
            for outputs in self.generator.answer(todo):
                self._append(path, [self._answer(one) for one in outputs])
                bar.advance(row, len(outputs))
        ranks.wait()
        seconds = time.perf_counter() - start
        return {"asked": len(missing), "seconds": round(seconds, 3), "per_second": round(len(missing) / seconds, 3)}

    def _append(self, path: Path, answers: list[Answer]) -> None:
        try:
            scored = self.scorer.scored(answers)
        except ValueError:
            store.append(path, answers)  # a scorer that fails, such as a process that was killed, costs no answer
            raise
        store.append(path, scored)

    def _plan(self) -> list[RequestBatch]:
        return self.generator.plan([self._request(name, ask) for name, ask in self.asked.items()])

    def merge(self, folder: Path) -> list[Answer]:
        """All answers in the order of the questions, in one file; files of the other ranks go, old answers stay."""
        known = store.known(folder, self.name, self.beside)
        given = [(answer, known[answer.key]) for answer in self.unanswered.values()]
        merged = [replace(a, output=k.output, zoom=k.zoom, likelihoods=k.likelihoods) for a, k in given]
        store.keep(folder, self.name, merged)
        return merged


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} answers/s" if task.speed else "")


def answers_bar(shown: bool, console: Console | None = None) -> Progress:
    """A bar of answers: how many, how fast, how long still.

    Args:
        shown: False draws nothing.
        console: where it is drawn; the standard output unless given.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not shown)
