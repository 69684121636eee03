"""One frozen type for each arrow of the flow: record, sample, crops, sequence, batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dragonfly_lit.spec.layout import Grids
from dragonfly_lit.spec.outline import Outline
from dragonfly_lit.spec.samples import Record, Role, Sample, Turn

__all__ = ["Batch", "Crops", "Record", "Role", "Sample", "Sequence", "Turn"]


@dataclass(frozen=True, kw_only=True)
class Crops:
    """An image as the vision tower sees it: low, medium and high crops in one tensor."""

    pixels: UInt8[Tensor, "crops 3 side side"]
    grids: Grids


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Token ids of one sample, or of several packed behind one another.

    A token attends to the tokens before it of the same sample that lie on the trunk (branch 0) or
    on its own branch. Branches let several questions share one image.
    """

    input_ids: Int[Tensor, " tokens"]
    labels: Int[Tensor, " tokens"]
    position_ids: Int[Tensor, " tokens"]
    sample_ids: Int[Tensor, " tokens"]
    branch_ids: Int[Tensor, " tokens"]
    question_mask: Bool[Tensor, " tokens"]
    image_slots: Int[Tensor, " slots"]
    """Places of its images' tokens, without the newlines between them."""
    crops: tuple[Crops, ...]
    keys: tuple[str, ...]
    sources: tuple[str, ...]
    kinds: tuple[tuple[str, ...], ...] = ()
    """Of each sample, of each of its branches, or of the whole where it has none; empty where they are not known."""

    def __len__(self) -> int:
        return self.input_ids.numel()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a training step takes: rows of tokens, and the crops of all their images behind one another.

    Attributes:
        input_ids: padded token ids.
        labels: the token itself where it is supervised, else IGNORE; the shift by one is the loss's.
        label_weights: weight of each label in the loss.
        position_ids: restart at 0 with every sample; a branch goes on from the end of its trunk.
        sample_ids: number of the sample within its row; -1 is padding.
        branch_ids: 0 on the trunk, 1.. on a branch.
        question_mask: text of the user's turns before the first answer.
        pixel_values: uint8 crops of every image, in the order of their slots; None without an image.
        image_grids: (cols, rows) of the medium and of the high grid of every image; None likewise.
        keys: sample keys, a tuple a row.
        sources: source names, a tuple a row.
        kinds: as in Sequence, a tuple a row.
        state: position of the data stream after this batch, plain types only.
        outline: what the host knows of it, so that a forward need not ask the device.
    """

    input_ids: Int[Tensor, "rows tokens"]
    labels: Int[Tensor, "rows tokens"]
    label_weights: Float[Tensor, "rows tokens"]
    position_ids: Int[Tensor, "rows tokens"]
    sample_ids: Int[Tensor, "rows tokens"]
    branch_ids: Int[Tensor, "rows tokens"]
    question_mask: Bool[Tensor, "rows tokens"]
    pixel_values: UInt8[Tensor, "images crops 3 side side"] | None
    image_grids: Int[Tensor, "images 2 2"] | None
    keys: tuple[tuple[str, ...], ...]
    sources: tuple[tuple[str, ...], ...]
    outline: Outline
    kinds: tuple[tuple[tuple[str, ...], ...], ...] = ()
    state: Mapping[str, Any] | None = None

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {f.name: function(v) for f in fields(self) if isinstance(v := getattr(self, f.name), torch.Tensor)}
        return replace(self, **tensors, outline=self.outline.map(function))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`.

        The host does not wait for a copy from page-locked memory, whatever `non_blocking` says: Lightning hands it
        to plain tensors only, and torch keeps such memory until the copy is done.
        """
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking or tensor.is_pinned()))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for copies that overlap with computing."""
        return self._map(torch.Tensor.pin_memory)

    def model_inputs(self) -> dict[str, Tensor | Outline | None]:
        """The arguments of the model's forward, without labels."""
        names = (
            "input_ids",
            "position_ids",
            "sample_ids",
            "branch_ids",
            "question_mask",
            "pixel_values",
            "image_grids",
            "outline",
        )
        return {name: getattr(self, name) for name in names}

    @property
    def num_samples(self) -> int:
        return sum(map(len, self.keys))
