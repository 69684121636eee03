"""LLaVA's JSON: `{"id", "image": name or names, "conversations": [{"from": "human|gpt", "value": "<image> ..."}]}`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .conversations import Options, RawConversation, finish, turns_of
from .files import read_rows


def rows(path: Path, options: Options) -> Iterator[dict[str, Any]]:
    """The samples of a LLaVA file, JSON or JSON lines."""
    return read_rows(path)


def conversation(row: dict[str, Any], options: Options) -> RawConversation:
    """One sample; one without an image is text only."""
    image = row.get("image", row.get("images")) or []
    names = [image] if isinstance(image, str) else list(image)
    return finish(str(row.get("id", "")), turns_of(row.get("conversations")), names)
