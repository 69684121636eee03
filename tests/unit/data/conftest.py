"""Small shards, written by webdataset, and a builder over the tiny tokenizer."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.models.tiny import tiny_tokenizer
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.records import Record, Turn
from dragonfly_lit.spec.shard import record_to_json

LAYOUT = Layout(
    image_size=16, patch_size=8, class_token=False, zoom=Zoom(medium=False, high=False, top_k=None)
)  # fmt: skip
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


@pytest.fixture(scope="session")
def builder() -> SequenceBuilder:
    return SequenceBuilder(tokenizer=tiny_tokenizer(), layout=LAYOUT, max_tokens=160)


@pytest.fixture(scope="session")
def two_sources(tmp_path_factory) -> dict[str, str]:
    """Folders of 140 samples with an image (a tenth of them with two) and of 60 without."""
    root = tmp_path_factory.mktemp("sources")
    pictures = [make_record(n, "pic", images=2 if n % 10 == 0 else 1) for n in range(140)]
    texts = [make_record(n, "text", images=0) for n in range(60)]
    return {
        "pic": str(write_shards(root / "pic", pictures, maxcount=40)),
        "text": str(write_shards(root / "text", texts, maxcount=25)),
    }


@pytest.fixture(scope="session")
def make_data(two_sources, builder):
    """A data module over both sources; keyword arguments replace the defaults."""

    def make(**overrides) -> DragonflyDataModule:
        sources = {
            "pic": {"path": two_sources["pic"], "weight": 0.7},
            "text": {"path": two_sources["text"], "weight": 0.3},
        }
        fields = {
            "train": {"sources": sources},
            "builder": builder,
            "pad_id": PAD,
            "num_workers": 0,
            "num_streams": 8,
            "block": 4,
            "window": 16,
            "batch": {"mode": "padded", "size": 4},
            "epoch": {"steps": 24},
        }
        return DragonflyDataModule(**fields | overrides)

    return make
