"""Two sources of small shards, a builder over the tiny tokenizer, and a data module of both."""

from __future__ import annotations

import pytest
from small_shards import LAYOUT, PAD, make_record, write_shards

from dragonfly_lit.data import fetching
from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.models.tiny import tiny_tokenizer
from dragonfly_lit.processing.sequences import SequenceBuilder


@pytest.fixture(autouse=True)
def no_server_has_answered(monkeypatch):
    """A server that has answered once is waited for; what a test asked must not make the next one wait."""
    monkeypatch.setattr(fetching, "_answered", set())


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
