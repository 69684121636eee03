"""LLaVA's JSON: `{"id", "image": name or names, "conversations": [{"from": "human|gpt", "value": "<image> ..."}]}`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.sources.drafts import Draft, Options, finish, turns_of
from data_prep.sources.files import read_rows


def rows(path: Path, options: Options) -> Iterator[dict[str, Any]]:
    """The samples of a LLaVA file, JSON or JSON lines."""
    return read_rows(path)


def draft(row: dict[str, Any], options: Options) -> Draft:
    """One sample; one without an image is text only."""
    image = row.get("image", row.get("images")) or []
    names = [image] if isinstance(image, str) else list(image)
    return finish(str(row.get("id", "")), turns_of(row.get("conversations")), names)
