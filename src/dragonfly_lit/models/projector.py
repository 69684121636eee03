"""Vision width to language width, one feature at a time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Projector(nn.Module):
    """What a projector must be; derive your own from it.

    The model calls `YourProjector(in_features, out_features, **your_keys)`. It must treat every feature by itself and
    give one image token for each, so that their count stays the layout's.

    Attributes:
        affine: whether it is a matrix and a bias and nothing else. A mean may then be taken before projecting, which
            is exact and saves most of the work of pooling and ranking; otherwise features are projected first.
    """

    affine: bool = False

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights; features of a frozen tower may come in bfloat16 and are to be cast to it."""
        return next(self.parameters()).dtype

    def forward(self, features: Float[Tensor, "*places vision"], /) -> Float[Tensor, "*places language"]:
        """Image tokens of features."""
        # A subclass must say it; those built in are below.
        raise NotImplementedError(f"{type(self).__name__} has no forward(features).")

    def num_flops(self, rows: int) -> int:
        """Forward for `rows` features; by default one multiply-add for every weight of a matrix."""
        return 2 * rows * sum(weight.numel() for weight in self.parameters() if weight.dim() >= 2)

    def backward_flops(self, rows: int, *, weights: bool, inputs: bool) -> int:
        """Backward for `rows` features.

        Args:
            rows: number of features.
            weights: whether its own weights train.
            inputs: whether something before it trains.
        """
        return self.num_flops(rows) * (weights + inputs)


class LinearProjector(Projector, nn.Linear):
    """One linear layer with bias, as in the paper; `weight` and `bias` are its only weights."""

    affine = True

    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Linear.__init__(self, in_features, out_features)

    def reset_parameters(self) -> None:
        """Uniform within one over the root of the inputs, the matrix first."""
        bound = self.in_features**-0.5
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, input: Float[Tensor, "*places vision"]) -> Float[Tensor, "*places language"]:
        return nn.Linear.forward(self, input.to(self.weight.dtype))


class MlpProjector(Projector):
    """Two linear layers with a GELU between them, as LLaVA-1.5 and most models after it have.

    Args:
        in_features: width of the vision tower.
        out_features: width of the language model.
        hidden: width between the layers; None takes that of the language model.
    """

    def __init__(self, in_features: int, out_features: int, hidden: int | None = None) -> None:
        super().__init__(in_features, out_features)
        self.first = nn.Linear(in_features, hidden or out_features)
        self.second = nn.Linear(hidden or out_features, out_features)

    def forward(self, features: Float[Tensor, "*places vision"]) -> Float[Tensor, "*places language"]:
        return self.second(nn.functional.gelu(self.first(features.to(self.dtype))))

    def backward_flops(self, rows: int, *, weights: bool, inputs: bool) -> int:
        """The second layer always hands a gradient on; the first one only where something before it trains."""
        first, second = (2 * rows * layer.weight.numel() for layer in (self.first, self.second))
        return first * (weights + inputs) + second * (weights + (weights or inputs))
