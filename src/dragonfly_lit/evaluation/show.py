"""Questions of a benchmark as the model will get them: text, images, choices, accepted answers; no model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from dragonfly_lit.evaluation.asking import prompt_of, prompt_set
from dragonfly_lit.evaluation.benchmarks.base import Benchmark
from dragonfly_lit.evaluation.images import place_of
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.settings import Settings
from dragonfly_lit.processing.images import decode, is_faint
from dragonfly_lit.processing.prompts import question_text


def show(benchmarks: Sequence[Benchmark], settings: Settings) -> Iterator[str]:
    """Lines about the first `show` questions of each benchmark; every question is read and checked as for a run.

    Args:
        benchmarks: those without `show` are left out.
        settings: of the evaluation: prompts, data root, limits.

    Raises:
        ValueError: what a benchmark, a prompt or an image has wrong, by name.
    """
    for benchmark in benchmarks:
        if not benchmark.show:
            continue
        questions = benchmark.questions(settings.data_root, hidden=settings.predict)
        texts = [_text(benchmark, question, settings) for question in questions]
        shown = questions[: benchmark.show]
        yield (
            f"{benchmark.name}: {len(shown)} of {len(questions):,} questions, "
            f"prompt set {prompt_set(benchmark, settings)}, "
            f"{benchmark.metric_type.__name__} ({benchmark.parser}), "
            f"{settings.max_new_tokens or benchmark.max_new_tokens} new tokens at most"
        )
        for number, question in enumerate(shown, start=1):
            yield f"\n{benchmark.name} {number}/{len(shown)}: question {printable(question.id)}"
            yield from _lines(question, texts[number - 1])
        yield ""


def printable(text: str) -> str:
    """Text of a data set for a terminal: new lines stay, whatever else is not printed is written as an escape."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def _text(benchmark: Benchmark, question: Question, settings: Settings) -> str:
    try:
        return question_text(prompt_of(benchmark, question, settings))
    except ValueError as error:
        raise ValueError(f"{question.task}: question {question.id}: {error}") from error


def _lines(question: Question, text: str) -> Iterator[str]:
    for number, (data, place) in enumerate(zip(question.read_images(), question.images, strict=True), start=1):
        try:
            image = decode(data)
        except ValueError as error:
            raise ValueError(f"{question.task}: question {question.id}: image {number}: {error}") from error
        faint = (
            ", hardly anything is to be seen: its pixels use less than a tenth of the range" if is_faint(image) else ""
        )
        yield f"  image {number}: {image.width} x {image.height} pixels, {printable(place_of(place))}{faint}"
    if not question.images:
        yield "  image: none"
    yield "  text:"
    yield from (f"    {line}" for line in printable(text).split("\n"))
    for letter, choice in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", question.choices or (), strict=False):
        yield f"  choice {letter}: {printable(choice)}"
    for text, count in Counter(question.references).items():
        times = f" ({count} times)" if count > 1 else ""
        yield f"  accepted: {printable(text)}{times}"
    for name in ("category", "split"):
        if value := getattr(question, name):
            yield f"  {name}: {printable(value)}"
