"""Vision width to language width: one affine layer, which is what lets pooling and ranking come before it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Projector(nn.Linear):
    """One linear layer with bias. Input is cast to the layer's own dtype, so that a frozen tower may be in bfloat16."""

    def forward(self, input: Float[Tensor, "*places vision"]) -> Float[Tensor, "*places language"]:
        return super().forward(input.to(self.weight.dtype))
