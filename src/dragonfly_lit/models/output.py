"""What a forward gives, in transformers' manner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

from dragonfly_lit.spec.layout import Grids


@dataclass
class DragonflyOutput(ModelOutput):
    """What a forward gives.

    Attributes:
        loss: weighted mean over the supervised tokens; None without labels.
        logits: (rows, tokens or `logits_to_keep`, words).
        past_key_values: the cache, where one is used.
        hidden_states: of the language model: what goes in and what each block gives, where asked for.
        attentions: of the language model's blocks, where asked for and its attention implementation has them (eager).
        last_hidden_state: (rows, tokens, width) what the head reads.
        selected_crops: (images, kept) indices within the high crops, ascending; None where nothing is selected.
        crop_scores: (images, high) score of every high crop; None likewise.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    last_hidden_state: Tensor | None = None
    selected_crops: Tensor | None = None
    crop_scores: Tensor | None = None

    def looks(self, grids: Sequence[Grids]) -> list[dict[str, Any]]:
        """Of each image its grids; where crops were selected which were kept and the score of each, else None of them.

        Args:
            grids: of the images of this forward.
        """
        entries: list[dict[str, Any]] = [
            {"medium": list(grid.medium), "high": list(grid.high), "kept": None} for grid in grids
        ]
        if self.selected_crops is not None and self.crop_scores is not None:
            rankings = zip(self.selected_crops.tolist(), self.crop_scores.tolist(), strict=True)
            for entry, (kept, scores) in zip(entries, rankings, strict=True):
                entry |= {"kept": kept, "scores": [round(score, 3) for score in scores]}
        return entries
