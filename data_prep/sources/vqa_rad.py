"""VQA-RAD's JSON: one object a question, `image_name`, `question`, `answer`, `phrase_type` (`test_...`: test split)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dragonfly_lit.spec.medical_vqa import vqa_rad_split

from .conversations import Options, RawConversation, by_image, finish, question_turns
from .files import read_rows


def rows(path: Path, options: Options) -> Iterator[list[Any]]:
    """Questions of `options.split`; with `share_image` all of one image together."""
    found = [row for row in read_rows(path) if options.split in ("all", vqa_rad_split(row))]
    if options.share_image:
        order = {name: place for place, name in reversed(list(enumerate(row.get("image_name") for row in found)))}
        found.sort(key=lambda row: order[row.get("image_name")])
    return by_image(found, "image_name", options)


def conversation(row: list[dict[str, Any]], options: Options) -> RawConversation:
    """The questions of one image, or one question; answers that are numbers become their digits."""
    first = row[0]
    return finish(
        str(first.get("qid", "")),
        question_turns((q.get("question"), q.get("answer")) for q in row),
        [str(first.get("image_name") or "")],
        share_image=options.share_image,
        question_ids=[str(q.get("qid", "")) for q in row],
        answer_types=[str(q.get("answer_type", "")).strip().upper() for q in row],
    )
