"""Small shards, written by webdataset."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.records import Record, Turn
from dragonfly_lit.spec.shard import record_to_json

LAYOUT = Layout(image_size=16, patch_size=8, class_token=False, zoom=Zoom(medium=False, high=False, top_k=None))
PAD = 0


def picture(number: int, kind: str = "JPEG", side: int = 12) -> bytes:
    colour = np.random.default_rng(number).integers(0, 255, 3, np.uint8)
    out = BytesIO()
    Image.fromarray(np.tile(colour, (side, side, 1))).save(out, kind)
    return out.getvalue()


def make_record(number: int, name: str, images: int = 1, answer: str | None = None) -> Record:
    answer = answer or "a" * (1 + number * 7 % 23)
    turns = (
        Turn(role="user", text=f"{name} {number}?", num_images=images),
        Turn(role="assistant", text=answer),
    )
    pictures = tuple(picture(number + place) for place in range(images))
    return Record(key=f"{name}-{number:05d}", source=name, turns=turns, images=pictures, licence="CC0")


def members(record: Record) -> dict:
    found: dict = {"__key__": record.key, "json": record_to_json(record)}
    if len(record.images) == 1:
        return found | {"jpg": record.images[0]}
    return found | {f"{place}.jpg": image for place, image in enumerate(record.images)}


def tar_of(files: list[tuple[str, bytes]]) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, BytesIO(data))
    return out.getvalue()


def write_shards(folder: Path, records: list[Record], maxcount: int = 50) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(str(folder / "%04d.tar"), maxcount=maxcount, verbose=0) as writer:  # type: ignore[attr-defined]
        for record in records:
            writer.write(members(record))
    return folder
