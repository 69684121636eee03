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
        depth: image tokens that it gives of a feature, behind one another in the last axis. The first takes the slot;
            the n-th behind it is added to the hidden state there, before the n-th block behind the first.
    """

    affine: bool = False
    depth: int = 1

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights; features of a frozen tower may come in bfloat16 and are to be cast to it."""
        return next(self.parameters()).dtype

    def forward(self, features: Float[Tensor, "*places vision"], /) -> Float[Tensor, "*places tokens"]:
        """Image tokens of features, `depth` times as wide as the language model."""
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


class StackProjector(Projector):
    """Adds parts of a feature to the hidden states of deeper blocks, as DeepStack does (arXiv 2406.04334).

    A feature is cut into `depth` equal parts, each of which has a linear layer of its own. The first part takes the
    slot, the others reach the language model between its blocks: more is seen, and the sequence stays as short.
    `vision=scales` gives such features, a part for each scale.

    Args:
        in_features: width of the vision tower.
        out_features: width of the language model.
        depth: number of parts; at most the number of blocks.
    """

    def __init__(self, in_features: int, out_features: int, depth: int = 3) -> None:
        super().__init__(in_features, out_features)
        if depth < 1 or in_features % depth:
            good = ", ".join(str(n) for n in range(1, 17) if in_features % n == 0)
            raise ValueError(
                f"projector.depth={depth} does not divide features of {in_features} numbers. Use one of {good}: "
                "as many as vision.tower.scales has."
            )
        self.depth = depth
        self.layers = nn.ModuleList(LinearProjector(in_features // depth, out_features) for _ in range(depth))

    def forward(self, features: Float[Tensor, "*places vision"]) -> Float[Tensor, "*places tokens"]:
        parts = features.chunk(self.depth, dim=-1)
        return torch.cat([layer(part) for layer, part in zip(self.layers, parts, strict=True)], dim=-1)
