"""What the miniatures of published layouts are written with."""

import base64
import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def cell(shade: int = 0) -> dict:
    """An image as Hugging Face stores it."""
    return {"bytes": picture(shade), "path": None}


def text_cell(shade: int = 0) -> str:
    """An image in base64, as tables of text hold it."""
    return base64.b64encode(picture(shade)).decode()


def parquet(path: Path, rows: list[dict], group: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


def table(path: Path, rows: list[dict], delimiter: str = "\t") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
