"""Parquet or Arrow as the Hugging Face hub serves it: `image` or `images` with bytes, and text in one of its layouts.

Texts: `conversations` or `messages`; `texts` with `user` and `assistant`; `question` with `answer` or `answers`;
`caption` or `text`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dragonfly_lit.spec.records import Turn

from .conversations import Options, RawConversation, finish, first_of, question_turns, turns_of
from .files import read_rows

META = ("answer_type", "question_type", "category", "source")


def rows(path: Path, options: Options) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet or Arrow file, or of a folder of them."""
    return read_rows(path)


def conversation(row: dict[str, Any], options: Options) -> RawConversation:
    """One row; images lie in it as bytes, or as names of files in the image folder."""
    name = str(next((row[key] for key in ("id", "image_id", "question_id", "qid") if row.get(key) is not None), ""))
    meta = {key: row[key] for key in META if isinstance(row.get(key), str)}
    return finish(name, row_turns(row, options), row_images(row), origin=meta.pop("source", ""), **meta)


def row_turns(row: Mapping[str, Any], options: Options) -> list[Turn]:
    """The turns of a row, whichever of the layouts it has."""
    for name in ("conversations", "messages"):
        if isinstance(row.get(name), list):
            return turns_of(row[name])
    if isinstance(row.get("texts"), list):
        return question_turns((pair.get("user"), pair.get("assistant")) for pair in row["texts"])
    if "question" in row:
        return question_turns([(row["question"], _answer(first_of(row, ("answer", "answers", "label"), "answer")))])
    told = first_of(row, ("caption", "text"), "text (conversations, messages, texts, question)")
    return question_turns([(options.prompt, told[0] if isinstance(told, list) and told else told)])


def row_images(row: Mapping[str, Any]) -> list[str | bytes]:
    """The images of a row: encoded bytes, or names."""
    cell = next((row[name] for name in ("images", "image") if row.get(name) is not None), [])
    return [_image(value) for value in (cell if isinstance(cell, list) else [cell])]


def _image(value: Any) -> str | bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str | bytes):
        raise ValueError(f"an image is bytes or a name, not {value!r:.60}.")
    return value


def _answer(value: Any) -> Any:
    """The answer most annotators gave where a list has them all; the first of them on a tie."""
    if not isinstance(value, list):
        return value
    answers = [answer.get("answer") if isinstance(answer, Mapping) else answer for answer in value]
    return Counter(answers).most_common(1)[0][0] if answers else None
