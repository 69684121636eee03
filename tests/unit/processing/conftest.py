"""A released tokenizer, a small layout, and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from dragonfly_lit.spec.layout import Layout, Zoom

TOKENIZER = Path(__file__).parents[2] / "parity" / "v1" / "tokenizer"


@pytest.fixture(scope="session")
def tokenizer():
    return PreTrainedTokenizerFast.from_pretrained(TOKENIZER)


@pytest.fixture(scope="session")
def small():
    """16 px crops of 2x2 patches: 1 + 4 + 4 kept crops of 5 features and a newline, 54 tokens an image."""
    return Layout(image_size=16, patch_size=8, class_token=True, zoom=Zoom(high_crops=16, top_k=1))


@pytest.fixture(scope="session")
def picture():
    def make(width: int, height: int, seed: int = 0) -> Image.Image:
        rng = np.random.default_rng(seed)
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make
