"""Questions to answers to scores, on any number of ranks, going on where an earlier run stopped.

`OUT/answers/BENCHMARK.jsonl` is appended to as answers come (`BENCHMARK.rankN.jsonl` by the other ranks); rank zero
merges, scores and writes `results.json`, `results.md` and `report.html`. Which questions share a batch follows from all
questions, so neither the number of ranks nor a kill changes an answer. No answer is ever dropped: `answers.keep`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import nn

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation import report
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.asking import Asking, asks, prompt_of
from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.predictions import read_predictions, read_rows
from dragonfly_lit.evaluation.prompts import placed
from dragonfly_lit.evaluation.ranks import Ranks
from dragonfly_lit.evaluation.requests import GenerationOutput, GenerationRequest, RequestBatch
from dragonfly_lit.evaluation.scores import Scorer, score
from dragonfly_lit.evaluation.settings import Settings
from dragonfly_lit.evaluation.shots import images_of, shots
from dragonfly_lit.io import disk
from dragonfly_lit.io.lock import locked

log = logging.getLogger(__name__)

SAMPLED_VALUES = 65536
"""Values of a weight that its fingerprint reads: all of a small one, evenly spaced ones of a large one."""


def run(
    benchmarks: Sequence[Benchmark],
    *,
    model,
    processor,
    out: str | Path,
    settings: Settings,
    fingerprint: Mapping[str, Any] | None = None,
    beside: Sequence[Path] = (),
) -> dict[str, Any]:
    """Generates, scores and reports all benchmarks; every rank returns the results.

    Args:
        benchmarks: of a suite, or of one benchmark: `suite.benchmarks`.
        model: a `DragonflyForConditionalGeneration`, on its device.
        processor: its `DragonflyProcessor`.
        out: folder of the answers and the report; answers already there for the same questions, prompts, settings and
            model are not generated again.
        settings: of the evaluation.
        fingerprint: what identifies the model, plain values; taken from the weights unless given.
        beside: `answers` folders of other evaluations, whose answers to the same prompts need not be generated again.

    Raises:
        ValueError: what a benchmark, a prompt, an image or a setting has wrong, by name; or another process evaluates
            into `out`.
    """
    ranks, out, benchmarks = Ranks.join(), Path(out), _limited(benchmarks, settings)
    with ExitStack() as held, disk.naming(out):
        ranks.first_does(lambda: held.enter_context(_locked(out)))
        return _run(benchmarks, model, processor, out, settings, fingerprint, ranks, beside)


def _locked(out: Path) -> AbstractContextManager[None]:
    return locked(out, way_out="Wait until it has ended or end it, or give another out=.")


def _run(
    benchmarks: Sequence[Benchmark],
    model: Any,
    processor: Any,
    out: Path,
    settings: Settings,
    fingerprint: Mapping[str, Any] | None,
    ranks: Ranks,
    beside: Sequence[Path],
) -> dict[str, Any]:
    """What `run` does while no other process writes into `out`."""
    model.eval()
    identity = dict(fingerprint) if fingerprint is not None else weights_fingerprint(model)
    generator = BatchGenerator(
        model,
        processor,
        batch_tokens=settings.batch_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
        decoding=settings.decoding,
    )
    (out / "answers").mkdir(parents=True, exist_ok=True)
    scored, times = [], {}
    for benchmark in benchmarks:
        questions = benchmark.questions(settings.data_root, hidden=settings.predict)
        generation = _Generation(benchmark, questions, generator, settings, identity, beside)
        times[benchmark.name] = generation.run(out / "answers", ranks)
        for scores in ranks.gather(generation.scorer.scores):
            generation.scorer.scores |= scores
        if ranks.first:
            answers, scorer = generation.merge(out / "answers"), generation.scorer
            scored.append(score(benchmark, questions, answers, settings=settings, out=out, scorer=scorer))
        ranks.wait()
    results = None
    if ranks.first:
        where = {"device": str(model.device), "ranks": ranks.world}
        results = report.results(scored, settings=settings, model=identity, times={**where, "benchmarks": times})
        report.write(out, results, scored, settings)
    return ranks.broadcast(results)


def score_predictions(
    benchmark: Benchmark, predictions: str | Path, out: str | Path, *, settings: Settings
) -> dict[str, Any]:
    """Scores and reports a file of predictions: no model, no device.

    Args:
        benchmark: whose questions were answered.
        predictions: JSON lines with an id and a prediction each; answers written by `run` will do.
        out: folder of the report.
        settings: of which prompts, data root, limit, resamples, gallery and judge count.

    Raises:
        ValueError: the file is of another benchmark, an id appears twice, is unknown or missing, or has no prediction.
    """
    (benchmark,) = _limited([benchmark], settings)
    out, path = Path(out), Path(predictions)
    if path.resolve() == store.file_of(out / "answers", benchmark.name).resolve():
        raise ValueError(
            f"predictions={path} would be overwritten by the scored answers. Choose another out than {out}."
        )
    questions = benchmark.questions(settings.data_root, hidden=settings.predict)
    asked = asks(benchmark, questions, settings)
    turns = [(ask.question.id, ask.turn) for ask in asked]
    outputs = read_predictions(path, benchmark.name, questions, turns)
    zooms = {
        (row["id"], row.get("turn") or 0): row["zoom"]
        for row in read_rows(path)
        if row.get("zoom") and isinstance(row.get("id"), str)
    }
    identity = {"predictions": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
    unanswered = _unanswered(benchmark, asked, settings, generation={}, model=identity)
    answers = [replace(one, output=outputs[one.id, one.turn], zoom=zooms.get((one.id, one.turn))) for one in unanswered]
    with _locked(out), disk.naming(out):
        (out / "answers").mkdir(parents=True, exist_ok=True)
        scored = score(benchmark, questions, answers, settings=settings, out=out)
        results = report.results([scored], settings=settings, model=identity, times={})
        report.write(out, results, [scored], settings)
    return results


def weights_fingerprint(model: nn.Module) -> dict[str, str]:
    """A digest of the model's configuration and weights, the same on every device.

    Large weights are read in evenly spaced places, so that 8 billion weights take a second.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().flatten()
        flat = flat[:: max(1, len(flat) // SAMPLED_VALUES)].cpu().contiguous()
        state.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        state.update(flat.view(torch.uint8).numpy().tobytes())
    config = getattr(model, "config", None)
    settings = {} if config is None else {"config": store.digest(config.to_dict())}
    return {"weights": state.hexdigest(), **settings}


def _limited(benchmarks: Sequence[Benchmark], settings: Settings) -> list[Benchmark]:
    names = [benchmark.name for benchmark in benchmarks]
    if len(set(names)) < len(names):
        raise ValueError(f"a benchmark appears twice in {', '.join(names)}; its answers would share a file.")
    return [one if settings.limit is None else replace(one, limit=settings.limit) for one in benchmarks]


def _unanswered(
    benchmark: Benchmark, asked: Sequence[Asking], settings: Settings, *, generation: Mapping, model: Mapping
) -> list[Answer]:
    """The answer to each prompt but for its output: the question as it is put, the images and the key."""
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


class _Generation:
    """The questions of one benchmark on their way to answers, each scored as it comes."""

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
        unanswered = _unanswered(benchmark, [*self.asked.values()], settings, generation=generation, model=model)
        self.unanswered = dict(zip(self.asked, unanswered, strict=True))

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
        if ranks.first and 0 < len(missing) < len(self.asked):
            there = len(self.asked) - len(missing)
            log.warning("%s: %d answers are there, %d to go.", self.name, there, len(missing))
        path = store.file_of(folder, self.name, ranks.rank)
        with answers_bar(self.progress and ranks.first) as bar:
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
