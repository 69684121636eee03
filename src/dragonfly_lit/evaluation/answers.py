"""Answers as JSON lines: appended and fsynced batch by batch, read back after a kill, keyed by all that made them.

A line has the fields of `Answer`. Its key is a digest of the question, its prompt, its images, the generation settings
and the model: a changed one of them makes another key, so an old answer is never taken for a new one. What was asked
stays: answers that the latest evaluation into a folder did not want lie in `BENCHMARK.earlier.jsonl` beside its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.metrics.base import Score
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.io import atomic, disk
from dragonfly_lit.processing.images import read_header

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prompt, the output, what was read out of it, and its scores.

    Attributes:
        key: digest of everything that determines the output.
        id: of the question.
        turn: number of the draw, or of the rotation of the choices, where a question is asked several times.
        task: name of the benchmark.
        question: its words, without choices and instructions.
        choices: as they were shown.
        references: the accepted answers; of choices the letter.
        category: of the question.
        split: likewise.
        prompt: text of the user's turn.
        output: text of the model, without special tokens.
        answer: what the official rule read out of them; None when nothing, or when a judge is still to read it.
        score: by the official rule; None until a judge has given one.
        lenient_answer: as `answer`, by the lenient rule.
        lenient_score: likewise.
        images: digests of the images' bytes.
        sizes: width and height of each image in pixels, as it is stored; None where one of them cannot be read.
        likelihoods: logarithms of those of the choices, where they were compared.
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
    sizes: list[list[int]] | None = None
    zoom: list[dict[str, Any]] | None = None
    likelihoods: list[float] | None = None
    turn: int = 0
    question: str = ""
    choices: list[str] | None = None
    references: list[str] = field(default_factory=list)
    category: str = ""
    split: str = ""


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
    """Digests of images' bytes, and the images' sizes, each distinct image read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[tuple[str, ...], list[list[int]] | None]] = {}

    def of(self, question: Question) -> tuple[str, ...]:
        """One digest an image of `question`; a ValueError names the question when an image is missing."""
        return self._read(question)[0]

    def sizes(self, question: Question) -> list[list[int]] | None:
        """Width and height of each image; None where one of them is not an image."""
        return self._read(question)[1]

    def _read(self, question: Question) -> tuple[tuple[str, ...], list[list[int]] | None]:
        keys = question.image_keys
        if keys not in self._known:
            contents = question.read_images()
            digests = tuple(hashlib.blake2b(data, digest_size=8).hexdigest() for data in contents)
            self._known[keys] = digests, _sizes(contents)
        return self._known[keys]


def _sizes(contents: Iterable[bytes]) -> list[list[int]] | None:
    try:
        return [list(read_header(data)[:2]) for data in contents]
    except ValueError:  # said where the image is decoded; to score answers it need not be one
        return None


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


def by_question(answers: Iterable[Answer], *, circular: bool) -> list[Answer]:
    """One answer a question: the first turn, with the mean of the scores of all; the least one in circular evaluation.

    Args:
        answers: of a file.
        circular: whether the turns are rotations of the choices, all of which must be right.
    """
    turns: dict[str, list[Answer]] = {}
    for answer in answers:
        turns.setdefault(answer.id, []).append(answer)
    return [of[0] if len(of) == 1 else _together(of, circular) for of in turns.values()]


def _together(of: Sequence[Answer], circular: bool) -> Answer:
    scores = [answer.score for answer in of if answer.score is not None]
    if len(scores) < len(of):
        return dataclasses.replace(of[0], score=None)
    return dataclasses.replace(of[0], score=min(scores) if circular else math.fsum(scores) / len(scores))


def file_of(folder: Path, benchmark: str, rank: int = 0) -> Path:
    """Where a rank writes the answers to a benchmark."""
    return folder / (f"{benchmark}.jsonl" if rank == 0 else f"{benchmark}.rank{rank}.jsonl")


def parts(folder: Path, benchmark: str) -> list[Path]:
    """What the ranks above zero of a killed evaluation left."""
    own = re.compile(re.escape(benchmark) + r"\.rank\d+\.jsonl")
    return sorted(path for path in folder.glob("*.jsonl") if own.fullmatch(path.name))


def earlier_file(folder: Path, benchmark: str) -> Path:
    """Where answers lie that the latest evaluation into the folder did not want."""
    return folder / f"{benchmark}.earlier.jsonl"


def known(folder: Path, benchmark: str, beside: Iterable[Path] = ()) -> dict[str, Answer]:
    """Every answer to a benchmark in a folder of answers by its key, then those of other folders.

    Args:
        folder: whose files must be whole.
        benchmark: name of it.
        beside: folders of other evaluations; a file of theirs that cannot be read is passed over with a warning.
    """
    found: dict[str, Answer] = {}
    for other in beside:
        if other.resolve() != folder.resolve():
            for path in _files(other, benchmark):
                try:
                    found |= read(path)
                except (OSError, ValueError) as error:
                    log.warning("%s; its answers are not reused.", error)
    for path in _files(folder, benchmark):
        found |= read(path)
    return found


def _files(folder: Path, benchmark: str) -> list[Path]:
    return [earlier_file(folder, benchmark), file_of(folder, benchmark), *parts(folder, benchmark)]


def keep(folder: Path, benchmark: str, wanted: Sequence[Answer]) -> None:
    """One file with the wanted answers, in their order; what else the folder holds goes into the file of earlier ones.

    Earlier ones are written first: whenever the process is killed, every answer lies in some file.
    """
    now = {answer.key for answer in wanted}
    here = known(folder, benchmark)
    rest = [answer for key, answer in here.items() if key not in now]
    if rest:
        replace(earlier_file(folder, benchmark), rest)
    replace(file_of(folder, benchmark), wanted)
    if not rest:
        earlier_file(folder, benchmark).unlink(missing_ok=True)
    for path in parts(folder, benchmark):
        path.unlink()


def _line(answer: Answer) -> str:
    return json.dumps(asdict(answer), ensure_ascii=False) + "\n"
