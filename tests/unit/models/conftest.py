"""A tiny model, and samples for it made by the real processing."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.batches import collate, pack
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sample, Turn


class Maker:
    """Makes sequences and batches for one model."""

    def __init__(self, model) -> None:
        self.tokenizer = tiny_tokenizer()
        self.builder = SequenceBuilder(tokenizer=self.tokenizer, layout=model.layout, max_tokens=2000)

    def sequence(self, seed: int, *, num_images: int = 1, pairs=(("What is it?", "A dog."),), share_image=False):
        images = []
        for i in range(num_images):
            generator = torch.Generator().manual_seed(100 * seed + i)
            width, height = (40 + 17 * seed, 60) if seed % 2 else (90, 30 + 5 * seed)
            pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
            images.append(Image.fromarray(pixels.numpy()))
        turns = [
            turn
            for question, answer in pairs
            for turn in (Turn(role="user", text=question), Turn(role="assistant", text=answer))
        ]
        turns[0] = Turn(role="user", text=pairs[0][0], num_images=num_images)
        sample = Sample(key=str(seed), source="made", turns=tuple(turns), images=tuple(images), share_image=share_image)
        return self.builder.build(sample)

    def batch(self, *rows, **options):
        """A batch of one row for each argument; a list of sequences is packed into one row."""
        sequences = [pack(row) if isinstance(row, list) else row for row in rows]
        return collate(sequences, pad_id=self.tokenizer.pad_token_id, **options)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def make(model):
    return Maker(model)
