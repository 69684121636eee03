"""Outputs of another toolkit, held against the questions: JSON lines, one JSON list, or the samples of lmms-eval."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.question import Question

log = logging.getLogger(__name__)

ID_FIELDS = ("id", "question_id", "questionId")
OUTPUT_FIELDS = ("output", "prediction", "text", "response", "answer")
"""Names under which toolkits keep a question's id and a model's output, ours first."""

Outputs = dict[tuple[str, int], str]
"""By the id of the question and the number of the turn."""


def read_predictions(path: Path, task: str, questions: Sequence[Question], turns: Sequence[tuple[str, int]]) -> Outputs:
    """The outputs of a predictions file: JSON lines, or one JSON list of objects; also samples of lmms-eval.

    Args:
        path: of the file.
        task: name of the benchmark.
        questions: of it.
        turns: ids of the questions, each with the numbers of the turns that are wanted of it.

    Raises:
        ValueError: the file is missing, empty or malformed; an id appears twice, is unknown, or has no prediction; a
            question has none; or the predictions are of another benchmark.
    """
    outputs: Outputs = {}
    found = read_rows(path)
    if found and all("doc_id" in row and ("resps" in row or "filtered_resps" in row) for row in found):
        found = _of_lmms_eval(path, task, found, questions)
    for number, row in enumerate(found, 1):
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
        turn = row.get("turn") or 0
        if not isinstance(turn, int):
            raise ValueError(f"{path}: the prediction for {key!r} has the turn {turn!r}; expected a number from 0.")
        place = str(key), turn
        if place in outputs:
            raise ValueError(f"{path}: id {key!r} appears twice. Keep one prediction a question.")
        outputs[place] = str(output)
    _check_ids(path, task, outputs, set(turns))
    return outputs


def _of_lmms_eval(
    path: Path, task: str, found: Sequence[Mapping[str, Any]], questions: Sequence[Question]
) -> list[dict[str, Any]]:
    """The samples that lmms-eval logs (`*_samples_*.jsonl`) as predictions.

    A sample is of the question whose id its document has, else of the one at its place, whose words must be the same.
    """
    ids = {question.id for question in questions}
    predictions = []
    for row in found:
        doc, number = row.get("doc"), row["doc_id"]
        doc = doc if isinstance(doc, Mapping) else {}
        key = next((str(doc[name]) for name in ID_FIELDS if str(doc.get(name)) in ids), None)
        if key is None:
            if not isinstance(number, int) or not 0 <= number < len(questions):
                raise ValueError(f"{path}: doc_id {number!r} is none of the {len(questions)} questions of {task}.")
            question, said = questions[number], doc.get("question")
            if isinstance(said, str) and said.split() != question.text.split():
                raise ValueError(
                    f"{path}: doc_id {number} asks {said!r:.60}, and question {number} of {task} asks "
                    f"{question.text!r:.60}. Read the same split, in the layout that lmms-eval reads."
                )
            key = question.id
        output = row.get("resps") or row.get("filtered_resps")
        drawn = _texts(output)
        predictions += [{"id": key, "output": text, "turn": turn} for turn, text in enumerate(drawn)] or [{"id": key}]
    return predictions


def _texts(value: Any) -> list[str]:
    """The texts in lists of lists."""
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def _check_ids(path: Path, task: str, outputs: Outputs, expected: set[tuple[str, int]]) -> None:
    num_questions = len({key for key, _ in expected})
    if not outputs:
        raise ValueError(f"{path} holds no prediction; {task} has {num_questions} questions.")
    known_ids = {key for key, _ in expected}
    unknown = [key for key, _ in outputs if key not in known_ids]
    if len(unknown) == len(outputs):
        raise ValueError(
            f"{path}: none of its {len(outputs)} ids (e.g. {unknown[0]!r}) is a question of {task}. "
            "Are these the predictions of another benchmark or split?"
        )
    if unknown:
        raise ValueError(f"{path}: {len(unknown)} ids are not questions of {task}, e.g. {unknown[0]!r}.")
    if missing := sorted(known_ids - {key for key, _ in outputs}):
        raise ValueError(
            f"{path}: {len(missing)} of {num_questions} questions of {task} have no prediction, e.g. {missing[0]!r}."
        )
    if outputs.keys() != expected:
        key, _ = min(outputs.keys() ^ expected)
        raise ValueError(
            f"{path}: question {key!r} has {sum(name == key for name, _ in outputs)} predictions, and "
            f"{sum(name == key for name, _ in expected)} are wanted: see sampling.n and benchmark.circular."
        )
    if empty := [key for (key, _), output in outputs.items() if not output.strip()]:
        log.warning("%s: %d predictions are empty and count as unparsed, e.g. %r.", path.name, len(empty), empty[0])


def read_rows(path: Path) -> list[dict[str, Any]]:
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
