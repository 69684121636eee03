"""ROCO's captions of radiology images.

First version: `captions.txt` (`ROCO_00002<tab>caption`, the image is `ROCO_00002.jpg`) or `traindata.csv`
(`id,name,caption`, the image is `name`). Second version: `train_captions.csv` (`ID,Caption`, the image is `ID.jpg`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.io.text import text_lines
from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Place, Row, RowError

from .conversations import Options, RawConversation, finish
from .images import images_of
from .parquet import IMAGES
from .turns import caption_turns


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The captions of one file; all splits have files of their own."""
    return _text_rows(path) if path.suffix == ".txt" and path.is_file() else read_rows(path)


def _text_rows(path: Path) -> Iterator[Row]:
    lines = ((number, line) for number, line in enumerate(text_lines(path), 1) if line.strip())
    for row, (number, line) in enumerate(lines, 1):
        name, tab, told = line.partition("\t")
        values = {"id": name.strip(), "caption": told} if tab else {"id": line.strip()}
        yield Row(values=values, place=Place(path.name, row, number))


def conversation(row: Row, options: Options) -> RawConversation:
    """One image and its caption as the answer to `options.prompt`."""
    name = row.text("id", "ID", "image_id", numbers=True).strip()
    images = images_of(row, options.image_columns, *IMAGES) or [row.text_or(f"{name}.jpg", "name").strip()]
    return finish(row, name, caption_turns(row, options, "caption", "Caption"), images)
