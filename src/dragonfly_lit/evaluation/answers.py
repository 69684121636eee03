"""Answers as JSON lines: appended and fsynced batch by batch, read back after a kill, keyed by all that made them.

A line has the fields of `Answer`. Its key is a digest of the question, its prompt, its images, the generation settings
and the model: a changed one of them makes another key, so an old answer is never taken for a new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.metrics.base import Score
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.io import atomic, disk

log = logging.getLogger(__name__)

ID_FIELDS = ("id", "question_id", "questionId")
OUTPUT_FIELDS = ("output", "prediction", "text", "response", "answer")
"""Names under which toolkits keep a question's id and a model's output, ours first."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prompt, the output, what was read out of it, and its scores.

    Attributes:
        key: digest of everything that determines the output.
        id: of the question.
        task: name of the benchmark.
        prompt: text of the user's turn.
        output: text of the model, without special tokens.
        answer: what the official rule read out of them; None when nothing, or when a judge is still to read it.
        score: by the official rule; None until a judge has given one.
        lenient_answer: as `answer`, by the lenient rule.
        lenient_score: likewise.
        images: digests of the images' bytes.
        zoom: for each image its medium grid, high grid (columns, rows), the high crops that were kept and their scores.
    """

    key: str
    id: str
    task: str
    prompt: str
    output: str
    answer: str | None = None
    score: float | None = None
    lenient_answer: str | None = None
    lenient_score: float | None = None
    images: list[str] = field(default_factory=list)
    zoom: list[dict[str, Any]] | None = None


_FIELDS = {f.name for f in fields(Answer)}


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits for anything that JSON can hold, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def answer_key(question: Question, *, prompt: str, images: Sequence[str], settings: Mapping, model: Mapping) -> str:
    """The key of an answer: `images` are digests of their bytes, `settings` those of generation."""
    return digest([question.task, question.id, prompt, list(images), dict(settings), dict(model)])


def scored(answer: Answer, score: Score) -> Answer:
    """`answer` with how it was read and what it earned."""
    return dataclasses.replace(
        answer,
        answer=score.parsed,
        score=score.score,
        lenient_answer=score.lenient_parsed,
        lenient_score=score.lenient_score,
    )


class ImageDigests:
    """Digests of images' bytes, each distinct image read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def of(self, question: Question) -> tuple[str, ...]:
        """One digest an image of `question`; a ValueError names the question when an image is missing."""
        keys = question.image_keys
        if keys not in self._known:
            self._known[keys] = tuple(
                hashlib.blake2b(data, digest_size=8).hexdigest() for data in question.read_images()
            )
        return self._known[keys]


def append(path: Path, answers: Iterable[Answer]) -> None:
    """Adds lines to `path` and returns when they are on the disk; a line torn by a kill is cut off first."""
    lines = "".join(_line(answer) for answer in answers).encode()
    with disk.naming(path), open(path, "ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, answers: Iterable[Answer]) -> None:
    """Writes `path` anew; a reader sees the old file or the new one, never half of it."""
    atomic.write(path, "".join(_line(answer) for answer in answers))


def read(path: Path) -> dict[str, Answer]:
    """The answers of a file by key; a torn last line is left out. Empty when there is no file.

    Raises:
        ValueError: a line that is not the last one is not an answer.
    """
    if not path.is_file():
        return {}
    answers: dict[str, Answer] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            answer = Answer(**{name: value for name, value in values.items() if name in _FIELDS})
        except (ValueError, TypeError, AttributeError) as error:
            if number == len(lines):  # no new line behind it: the process was killed while it wrote
                log.warning("%s: line %d is torn and is generated again.", path.name, number)
                break
            raise ValueError(
                f"{path}: line {number} is not an answer ({error}). Move the file away to start afresh."
            ) from error
        answers[answer.key] = answer
    return answers


def read_predictions(path: Path, task: str, questions: Sequence[Question]) -> dict[str, str]:
    """The outputs of a predictions file by question id: JSON lines, or one JSON list of objects.

    Raises:
        ValueError: the file is missing, empty or malformed; an id appears twice, is unknown, or has no prediction; a
            question has none; or the predictions are of another benchmark.
    """
    outputs: dict[str, str] = {}
    for number, row in enumerate(rows(path), 1):
        key = next((row[name] for name in ID_FIELDS if row.get(name) is not None), None)
        if key is None:
            raise ValueError(
                f"{path}: prediction {number} has no id; expected one of the fields {', '.join(ID_FIELDS)}."
            )
        if str(row.get("task", task)) != task:
            raise ValueError(f"{path}: prediction {key!r} is of the benchmark {row['task']}, not of {task}.")
        output = next((row[name] for name in OUTPUT_FIELDS if row.get(name) is not None), None)
        if not isinstance(output, str | int | float):
            raise ValueError(
                f"{path}: the prediction for {key!r} has no text; expected a field {' or '.join(OUTPUT_FIELDS)}."
            )
        if str(key) in outputs:
            raise ValueError(f"{path}: id {key!r} appears twice. Keep one prediction a question.")
        outputs[str(key)] = str(output)
    _check_ids(path, task, outputs, {question.id for question in questions})
    return outputs


def _check_ids(path: Path, task: str, outputs: Mapping[str, str], expected: set[str]) -> None:
    if not outputs:
        raise ValueError(f"{path} holds no prediction; {task} has {len(expected)} questions.")
    unknown = [key for key in outputs if key not in expected]
    if len(unknown) == len(outputs):
        raise ValueError(
            f"{path}: none of its {len(outputs)} ids (e.g. {unknown[0]!r}) is a question of {task}. "
            "Are these the predictions of another benchmark or split?"
        )
    if unknown:
        raise ValueError(f"{path}: {len(unknown)} ids are not questions of {task}, e.g. {unknown[0]!r}.")
    if missing := sorted(expected - outputs.keys()):
        raise ValueError(
            f"{path}: {len(missing)} of {len(expected)} questions of {task} have no prediction, e.g. {missing[0]!r}."
        )
    if empty := [key for key, output in outputs.items() if not output.strip()]:
        log.warning("%s: %d predictions are empty and count as unparsed, e.g. %r.", path.name, len(empty), empty[0])


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a predictions file, JSON lines or one JSON list; ValueError when it is none."""
    if not path.is_file():
        raise ValueError(f"predictions={path} is not a file. Give JSON lines with the fields id and prediction.")
    text = path.read_text(encoding="utf-8-sig")
    try:
        one_list = text.lstrip().startswith("[")
        found = json.loads(text) if one_list else [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise ValueError(f"predictions={path} is not JSON lines: {error}") from error
    if bad := next((row for row in found if not isinstance(row, dict)), None):
        raise ValueError(f"{path}: {bad!r:.60} is not an object with the fields id and prediction.")
    return found


def _line(answer: Answer) -> str:
    return json.dumps(asdict(answer), ensure_ascii=False) + "\n"
