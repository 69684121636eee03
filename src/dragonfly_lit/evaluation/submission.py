"""Answers to hidden questions as the file that a challenge's server scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Sheet
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.workbook import workbook
from dragonfly_lit.io import atomic


def check_servers(benchmarks: Sequence[Benchmark]) -> None:
    """A ValueError that names a benchmark which no server scores, or one that is asked several times a question."""
    for benchmark in benchmarks:
        if benchmark.circular:
            raise ValueError(
                f"predict=true: the server of {benchmark.name} takes one answer a question: benchmark.circular=false."
            )
        if not benchmark.server:
            raise ValueError(
                f"predict=true: no server takes answers to {benchmark.name}, whose own are public. Give predict=false."
            )


def write(out: Path, benchmark: Benchmark, questions: Sequence[Question], answers: Sequence[Answer]) -> Path:
    """The file, in `out/submission`.

    Args:
        out: folder of the results.
        benchmark: that was answered.
        questions: of it.
        answers: one a question, in the same order.
    """
    made = benchmark.submission([(q, answer.output.strip()) for q, answer in zip(questions, answers, strict=True)])
    folder = out / "submission"
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(made, Sheet):
        path = folder / f"{benchmark.name}_{benchmark.split}.xlsx"
        atomic.write(path, workbook(made.columns, made.rows))
        return path
    path = folder / f"{benchmark.name}_{benchmark.split}.json"
    atomic.write(path, json.dumps(made, ensure_ascii=False) + "\n")
    return path
