"""Chats: OpenAI's `messages` with text and image parts, or ShareGPT's `conversations`, with `images` beside them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .conversations import Options, RawConversation, finish, first_of, turns_of
from .files import read_rows


def rows(path: Path, options: Options) -> Iterator[dict[str, Any]]:
    """The conversations of a JSON, JSON-lines or Parquet file."""
    return read_rows(path)


def conversation(row: dict[str, Any], options: Options) -> RawConversation:
    """One conversation; its images are those of its parts, else those of `images` or `image`."""
    messages = first_of(row, ("messages", "conversations"), "conversation")
    images = list(_part_images(messages))
    if not images:
        beside = row.get("images", row.get("image")) or []
        images = [_image(value) for value in ([beside] if isinstance(beside, str | Mapping) else beside)]
    return finish(str(row.get("id", "")), turns_of(messages), images)


def _part_images(messages: Any) -> Iterator[str | bytes]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") in ("image", "image_url"):
                value = next((part[name] for name in ("image_url", "image", "url", "path") if part.get(name)), None)
                if value is not None:
                    yield _image(value)


def _image(value: Any) -> str | bytes:
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("url", "bytes", "path") if value.get(name)), None)
    if isinstance(value, str) and value.startswith("data:"):
        try:
            return base64.b64decode(value.partition("base64,")[2], validate=True)
        except binascii.Error as error:
            raise ValueError(f"an image's data: URL is not base64: {error}") from error
    if not isinstance(value, str | bytes):
        raise ValueError(f"an image is a name, a data: URL or bytes, not {value!r:.60}.")
    return value
