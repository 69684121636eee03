"""Stand-ins for an image in the language model's pretraining: long rows of noisy vectors, a few of which mean a word.

An image will reach the language model as crops of 17 vectors and a newline each, in front of the text; a few of them
will show the shape, mixed, weak, and sometimes mistaken. The rows drawn here are made of the model's own word
embeddings in just that manner, from the caption alone: nothing of a picture goes into them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tools.tiny_backbones.texts import COLOURS, SHAPES

SLOTS_A_CROP = 17
MOST_CROPS = 13


@dataclass(frozen=True, kw_only=True)
class WordIds:
    """Token ids of the words that a prefix is made of."""

    colours: Tensor
    shapes: Tensor
    newline: int


def draw_prefix(
    colour: Tensor, shape: Tensor, num_crops: int, table: Tensor, words: WordIds, generator: torch.Generator
) -> Tensor:
    """Prefixes of `num_crops` crops, [rows, num_crops * (SLOTS_A_CROP + 1), width].

    Args:
        colour: index into COLOURS for each row.
        shape: index into SHAPES likewise.
        num_crops: crops in every row.
        table: the model's word embeddings, [words, width]; gradients flow into them.
        words: ids of the words' tokens.
        generator: of everything random here.
    """
    rows, slots = len(colour), num_crops * SLOTS_A_CROP
    rms = table.detach()[torch.cat([words.colours, words.shapes])].pow(2).mean().sqrt()

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return torch.rand(*size, generator=generator) * (high - low) + low

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    shown = _shown(rows, num_crops, uniform)
    colour_seen = _mistaken(colour, len(COLOURS), slots, uniform(0, 0.1, rows, 1), generator)
    shape_seen = _mistaken(shape, len(SHAPES), slots, uniform(0, 0.3, rows, 1), generator)
    strength = uniform(0.5, 2.0, rows, 1, 1)
    evidence = (
        F.embedding(words.colours[colour_seen], table) * uniform(0.4, 1.6, rows, slots, 1)
        + F.embedding(words.shapes[shape_seen], table) * uniform(0.0, 1.6, rows, slots, 1)
    ) * strength
    width = table.shape[1]
    ground = normal(rows, 1, width) * rms * uniform(0, 1.5, rows, 1, 1)
    noise = normal(rows, slots, width) * rms * uniform(0.1, 0.8, rows, 1, 1)
    vectors = ground + noise + shown[..., None] * evidence
    newline = table[words.newline].expand(rows, num_crops, 1, -1)
    return torch.cat([vectors.view(rows, num_crops, SLOTS_A_CROP, -1), newline], dim=2).flatten(1, 2)


def _shown(rows: int, num_crops: int, uniform) -> Tensor:
    """Which slots show the shape, [rows, slots]: a share of the crops, in each a share of its slots, at least one."""
    crop_score = uniform(0, 1, rows, num_crops)
    in_crop = (crop_score < uniform(0.1, 0.8, rows, 1)) | (crop_score == crop_score.amin(1, keepdim=True))
    slot_score = uniform(0, 1, rows, num_crops, SLOTS_A_CROP)
    in_slot = (slot_score < uniform(0.03, 0.5, rows, num_crops, 1)) | (slot_score == slot_score.amin(2, keepdim=True))
    return (in_crop[..., None] & in_slot).flatten(1).float()


def _mistaken(truth: Tensor, num_classes: int, slots: int, rate: Tensor, generator: torch.Generator) -> Tensor:
    """`truth` for every slot, replaced by a random class at `rate`."""
    rows = len(truth)
    other = torch.randint(num_classes, (rows, slots), generator=generator)
    wrong = torch.rand(rows, slots, generator=generator) < rate
    return torch.where(wrong, other, truth[:, None])
