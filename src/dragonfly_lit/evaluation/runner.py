"""Questions to answers to scores, on any number of ranks, going on where an earlier run stopped.

`OUT/answers/BENCHMARK.jsonl` is appended to as answers come (`BENCHMARK.rankN.jsonl` by the other ranks); rank zero
merges, scores and writes `results.json`, `results.md` and `report.html`. Which questions share a batch follows from all
questions, so neither the number of ranks nor a kill changes an answer. No answer is ever dropped: `answers.keep`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation import report
from dragonfly_lit.evaluation.answering import Answering, unanswered
from dragonfly_lit.evaluation.asking import asks
from dragonfly_lit.evaluation.benchmarks.base import Benchmark
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.predictions import read_predictions, read_rows
from dragonfly_lit.evaluation.ranks import Ranks
from dragonfly_lit.evaluation.scores import score
from dragonfly_lit.evaluation.settings import Settings
from dragonfly_lit.io import disk
from dragonfly_lit.io.lock import locked

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
        generation = Answering(benchmark, questions, generator, settings, identity, beside)
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
    open_answers = unanswered(benchmark, asked, settings, generation={}, model=identity)
    answers = [
        replace(one, output=outputs[one.id, one.turn], zoom=zooms.get((one.id, one.turn))) for one in open_answers
    ]
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
