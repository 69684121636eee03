"""A folder of images and a CSV, TSV or JSON-lines file of their captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .conversations import Options, RawConversation, finish, first_of, question_turns
from .files import read_rows

IMAGE_COLUMNS = ("image", "file_name", "filename", "image_path", "path")
CAPTION_COLUMNS = ("caption", "text", "description")


def rows(path: Path, options: Options) -> Iterator[dict[str, Any]]:
    """The rows of the caption file."""
    return read_rows(path)


def conversation(row: dict[str, Any], options: Options) -> RawConversation:
    """One image and its caption as the answer to `options.prompt`."""
    image = first_of(row, IMAGE_COLUMNS, "image name")
    told = first_of(row, CAPTION_COLUMNS, "caption")
    return finish(str(row.get("id") or image), question_turns([(options.prompt, told)]), [image])
