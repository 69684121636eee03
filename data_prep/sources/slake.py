"""SLAKE's JSON: one object a question, `img_name` (`xmlab1/source.jpg`), `question`, `answer`, `q_lang` (`en`|`zh`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .conversations import Options, RawConversation, by_image, finish, question_turns
from .files import read_rows


def rows(path: Path, options: Options) -> Iterator[list[Any]]:
    """Questions in `options.language`; each split of SLAKE is a file of its own."""
    found = (row for row in read_rows(path) if options.language in ("all", row.get("q_lang")))
    return by_image(found, "img_name", options)


def conversation(row: list[dict[str, Any]], options: Options) -> RawConversation:
    """The questions of one image that follow one another, or one question."""
    first = row[0]
    return finish(
        str(first.get("qid", "")),
        question_turns((q.get("question"), q.get("answer")) for q in row),
        [str(first.get("img_name") or "")],
        share_image=options.share_image,
        question_ids=[str(q.get("qid", "")) for q in row],
        answer_types=[str(q.get("answer_type", "")).strip().upper() for q in row],
    )
