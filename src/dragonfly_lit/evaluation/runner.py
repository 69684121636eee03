"""Questions to answers to scores, on any number of ranks, going on where an earlier run stopped.

`OUT/answers/TASK.jsonl` is appended to as answers come (`TASK.rankN.jsonl` by the other ranks); rank zero merges,
scores and writes `results.json`, `results.md` and `report.html`. Which questions are asked together follows from all
questions, so neither the number of ranks nor a kill changes an answer.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import nn

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation import report
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.benchmarks.prompts import PromptBook
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.judge import Judge
from dragonfly_lit.evaluation.metrics.base import QuestionMetric
from dragonfly_lit.evaluation.ranks import Ranks
from dragonfly_lit.evaluation.requests import GenerationOutput, GenerationRequest, RequestBatch
from dragonfly_lit.evaluation.scores import score

log = logging.getLogger(__name__)

SAMPLED_VALUES = 65536
"""Values of a weight that its fingerprint reads: all of a small one, evenly spaced ones of a large one."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How questions are asked and scored.

    Attributes:
        prompts: the prompt templates.
        data_root: folder of the benchmarks' data.
        batch_tokens: tokens of a batch at most; less needs less memory and changes no answer.
        max_new_tokens: length of an answer at most; the benchmark's own unless given.
        temperature: 0 takes the likeliest token.
        seed: of drawn answers and of the bootstrap.
        limit: only the first so many questions of each benchmark.
        resamples: of the bootstrap.
        gallery: answers of each benchmark that the page shows.
        progress: whether to draw a progress bar.
        judge: who scores open answers.
    """

    prompts: PromptBook
    data_root: str | Path = "data"
    batch_tokens: int = 32768
    max_new_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    limit: int | None = None
    resamples: int = 1000
    gallery: int = 24
    progress: bool = True
    judge: Judge = field(default_factory=Judge)

    def __post_init__(self) -> None:
        for name, least in (("batch_tokens", 1), ("max_new_tokens", 1), ("limit", 1), ("resamples", 1), ("gallery", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: give at least {least}.")


def run(
    tasks: Sequence[Task],
    *,
    model,
    processor,
    out: str | Path,
    settings: Settings,
    fingerprint: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Asks, scores and reports all benchmarks; every rank returns the results.

    Args:
        tasks: the benchmarks, `suite.tasks`.
        model: a `DragonflyForConditionalGeneration`, on its device.
        processor: its `DragonflyProcessor`.
        out: folder of the answers and the report; answers already there for the same questions, prompts, settings and
            model are not asked again.
        settings: how to ask.
        fingerprint: what identifies the model, plain values; taken from the weights unless given.

    Raises:
        ValueError: what a task, a prompt, an image or a setting has wrong, by name.
    """
    ranks, out, tasks = Ranks.join(), Path(out), _limited(tasks, settings)
    model.eval()
    identity = dict(fingerprint) if fingerprint is not None else weights_fingerprint(model)
    generator = BatchGenerator(
        model, processor, batch_tokens=settings.batch_tokens, temperature=settings.temperature, seed=settings.seed
    )
    (out / "answers").mkdir(parents=True, exist_ok=True)
    scored, times = [], {}
    for task in tasks:
        questions = task.questions(settings.data_root)
        asking = _Asking(task, questions, generator, settings, identity)
        times[task.name] = asking.ask(out / "answers", ranks)
        if ranks.first:
            answers = asking.merge(out / "answers")
            scored.append(score(task, questions, answers, settings=settings, out=out))
        ranks.wait()
    results = None
    if ranks.first:
        where = {"device": str(model.device), "ranks": ranks.world}
        results = report.results(scored, settings=settings, model=identity, times={**where, "benchmarks": times})
        report.write(out, results, scored, settings)
    return ranks.tell(results)


def score_predictions(task: Task, predictions: str | Path, out: str | Path, *, settings: Settings) -> dict[str, Any]:
    """Scores and reports a file of predictions: no model, no device.

    Args:
        task: the benchmark whose questions were answered.
        predictions: JSON lines with an id and a prediction each; answers written by `run` will do.
        out: folder of the report.
        settings: of which prompts, data root, limit, resamples, gallery and judge count.

    Raises:
        ValueError: the file is of another benchmark, an id appears twice, is unknown or missing, or has no prediction.
    """
    (task,) = _limited([task], settings)
    out, path = Path(out), Path(predictions)
    if path.resolve() == _file(out / "answers", task.name, 0).resolve():
        raise ValueError(
            f"predictions={path} would be overwritten by the scored answers. Choose another out than {out}."
        )
    questions = task.questions(settings.data_root)
    outputs = store.read_predictions(path, task.name, questions)
    zooms = {row["id"]: row["zoom"] for row in store.rows(path) if row.get("zoom") and row.get("id")}
    digests, template = store.ImageDigests(), settings.prompts.template(task.name)
    identity = {"predictions": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
    answers = []
    for question in questions:
        prompt, images = template.render(question), digests.of(question)
        key = store.answer_key(question, prompt=prompt, images=images, settings={}, model=identity)
        answers.append(
            Answer(
                key=key,
                id=question.id,
                task=task.name,
                prompt=prompt,
                output=outputs[question.id],
                images=list(images),
                zoom=zooms.get(question.id),
            )
        )
    (out / "answers").mkdir(parents=True, exist_ok=True)
    scored = score(task, questions, answers, settings=settings, out=out)
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


def _limited(tasks: Sequence[Task], settings: Settings) -> list[Task]:
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"a benchmark appears twice in {', '.join(names)}; its answers would share a file.")
    return [task if settings.limit is None else replace(task, limit=settings.limit) for task in tasks]


class _Asking:
    """The questions of one benchmark on their way to answers."""

    def __init__(
        self, task: Task, questions: Sequence[Question], generator: BatchGenerator, settings: Settings, model: Mapping
    ) -> None:
        self.task, self.questions, self.generator, self.settings = task, questions, generator, settings
        self.metric: QuestionMetric | None = None if task.judged else task.metric(questions)
        digests, template = store.ImageDigests(), settings.prompts.template(task.name)
        self.blanks: dict[str, Answer] = {}
        for question in questions:
            prompt, images = template.render(question), digests.of(question)
            key = store.answer_key(question, prompt=prompt, images=images, settings=self._told(), model=model)
            self.blanks[question.id] = Answer(
                key=key, id=question.id, task=task.name, prompt=prompt, output="", images=list(images)
            )

    def _told(self) -> dict[str, Any]:
        settings, generator = self.settings, self.generator
        drawn = {"temperature": settings.temperature, "seed": settings.seed} if settings.temperature else {}
        return {
            "max_new_tokens": settings.max_new_tokens or self.task.max_new_tokens,
            **drawn,
            "resize": generator.resize,
            "dtype": str(generator.model.dtype),
        }

    def ask(self, folder: Path, ranks: Ranks) -> dict[str, Any]:
        """Appends the answers that are not there yet to this rank's file; how many, in how many seconds."""
        known = _known(folder, self.task.name)
        ranks.wait()  # everyone has read before anyone writes
        missing = {name for name, blank in self.blanks.items() if blank.key not in known}
        start = time.perf_counter()
        mine = self._plan()[ranks.rank :: ranks.world] if missing else []
        todo = [left for batch in mine if (left := batch.only(missing)) is not None]
        total, asked = sum(len(batch.items) for batch in mine), sum(len(batch.items) for batch in todo)
        if ranks.first and 0 < len(missing) < len(self.questions):
            log.warning(
                "%s: %d answers are there, %d to go.", self.task.name, len(self.blanks) - len(missing), len(missing)
            )
        path = _file(folder, self.task.name, ranks.rank)
        with _progress(self.settings.progress and ranks.first) as bar:
            row = bar.add_task(self.task.name, total=total, completed=total - asked)
            for outputs in self.generator.answer(todo):
                store.append(path, map(self._scored, outputs))
                bar.advance(row, len(outputs))
        ranks.wait()
        seconds = time.perf_counter() - start
        return {"asked": len(missing), "seconds": round(seconds, 3), "per_second": round(len(missing) / seconds, 3)}

    def _plan(self) -> list[RequestBatch]:
        tokens = self._told()["max_new_tokens"]
        return self.generator.plan(
            [
                GenerationRequest(
                    id=question.id,
                    prompt=self.blanks[question.id].prompt,
                    max_new_tokens=tokens,
                    image_keys=tuple(self.blanks[question.id].images),
                    read_images=question.read_images,
                )
                for question in self.questions
            ]
        )

    def _scored(self, output: GenerationOutput) -> Answer:
        answer = replace(self.blanks[output.id], output=output.text, zoom=output.zoom)
        if self.metric is None:
            return answer
        question = self.metric.questions[self.metric.rows[output.id]]
        return store.scored(answer, self.metric.score(output.text, question))

    def merge(self, folder: Path) -> list[Answer]:
        """All answers in the order of the questions, in one file; files of the other ranks and old answers go."""
        known = _known(folder, self.task.name)
        merged = [known[blank.key] for blank in self.blanks.values()]
        store.replace(_file(folder, self.task.name, 0), merged)
        for path in _parts(folder, self.task.name):
            path.unlink()
        return merged


def _file(folder: Path, task: str, rank: int) -> Path:
    return folder / (f"{task}.jsonl" if rank == 0 else f"{task}.rank{rank}.jsonl")


def _parts(folder: Path, task: str) -> list[Path]:
    return sorted(folder.glob(f"{task}.rank*.jsonl"))


def _known(folder: Path, task: str) -> dict[str, Answer]:
    known: dict[str, Answer] = {}
    for path in [_file(folder, task, 0), *_parts(folder, task)]:
        known |= store.read(path)
    return known


class _Speed(ProgressColumn):
    def render(self, task) -> Text:
        return Text(f"{task.speed:.1f} answers/s" if task.speed else "")


def _progress(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    return Progress(*columns, disable=not shown)
