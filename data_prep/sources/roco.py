"""ROCO's captions of radiology images.

First version: `captions.txt` (`ROCO_00002<tab>caption`, the image is `ROCO_00002.jpg`) or `traindata.csv`
(`id,name,caption`, the image is `name`). Second version: `train_captions.csv` (`ID,Caption`, the image is `ID.jpg`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .conversations import Options, RawConversation, finish, first_of, question_turns
from .files import read_rows
from .parquet import row_images


def rows(path: Path, options: Options) -> Iterator[dict[str, Any]]:
    """The captions of one file; all splits have files of their own."""
    return _text_rows(path) if path.suffix == ".txt" else read_rows(path)


def _text_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            name, tab, told = line.partition("\t")
            if line.strip():
                yield {"id": name.strip(), "caption": told} if tab else {"id": line.strip()}


def conversation(row: dict[str, Any], options: Options) -> RawConversation:
    """One image and its caption as the answer to `options.prompt`."""
    name = str(first_of(row, ("id", "ID", "image_id"), "id")).strip()
    told = first_of(row, ("caption", "Caption"), "caption")
    images = row_images(row) or [str(row.get("name") or f"{name}.jpg").strip()]
    return finish(name, question_turns([(options.prompt, told)]), images)
