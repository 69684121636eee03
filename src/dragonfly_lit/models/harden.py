"""A zoom rule that begins with mixtures of crops and ends with crops."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dragonfly_lit.models.find import Find
from dragonfly_lit.models.zoom import swap_gradient
from dragonfly_lit.spec.layout import Layout


class Harden(Find):
    """As Find, but at first each kept place holds the mixture of the crops that compete for it, as scores have it.

    What a place holds goes from the mixture to the kept crop in a straight line over the first `passes` passes that
    teach it; from then on, in validation and when it answers, it is Find. Gradients are Find's all along. A run that
    is resumed goes on where it was, since the number of passes is kept with the weights.

    Args:
        layout: geometry of an image's tokens.
        width: of the language model.
        passes: of training, each of one micro-batch, until crops are whole.
        keys: those of Find.
    """

    passes_seen: Tensor

    def __init__(self, layout: Layout, width: int, passes: int = 160, **keys: Any) -> None:
        super().__init__(layout, width, **keys)
        if passes < 1:
            raise ValueError(f"zoom.selector.passes={passes}: give 1 or more, or take dragonfly_lit.models.find.Find.")
        self.passes = passes
        self.register_buffer("passes_seen", torch.zeros((), dtype=torch.long))

    @property
    def softness(self) -> Tensor:
        """Share of the mixture in what a place holds, from 1 down to 0."""
        return (1 - self.passes_seen / self.passes).clamp(min=0)

    def held(
        self,
        kept: Float[Tensor, "images kept tokens width"],
        high: Float[Tensor, "images high tokens width"],
        shares: Float[Tensor, "images kept high"],
    ) -> Float[Tensor, "images kept tokens width"]:
        """The kept crops, moved towards their mixtures by `softness`; counts the pass."""
        with torch.no_grad():
            mixed = torch.einsum("nkh,nhtw->nktw", shares.to(high.dtype), high).to(kept.dtype)
            moved = self.softness.to(kept.dtype) * (mixed - kept)
            self.passes_seen += 1
        return swap_gradient(kept + moved, high, shares)
