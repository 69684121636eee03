"""What a kept crop was worth to the answers, by what the language model itself does with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dragonfly_lit.models.attention import attention_arguments
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.flops import Work, language_flops
from dragonfly_lit.models.loss import LossSums, loss_sums
from dragonfly_lit.spec.records import Batch


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A batch that the language model has just read, and a way to read it again with other image tokens.

    Attributes:
        model: the Dragonfly.
        batch: on the device; it may have no image.
        sums: the loss of the answers, with its graph.
        embeddings: what the language model was given, with a graph.
        options: how its decoder was called beside them.
        slots: flat places of the tokens of each kept high crop of each image.
    """

    model: Any
    batch: Batch
    sums: LossSums
    embeddings: Float[Tensor, "rows tokens width"]
    options: dict[str, Any]
    slots: Int[Tensor, "images kept pooled"]

    @property
    def about(self) -> Bool[Tensor, "images supervised"]:
        """Whether a supervised token is of the sample that an image is in."""
        samples, first = self.batch.sample_ids, self.slots[:, 0, 0]
        rows, width = self.sums.rows, samples.shape[1]
        same_row = first[:, None] // width == rows[None] // width
        return same_row & (samples.flatten()[first][:, None] == samples.flatten()[rows][None])

    def by_image(self, values: Float[Tensor, " supervised"]) -> Float[Tensor, " images"]:
        """Sums of values of supervised tokens, of the answers about each image."""
        return self.about.to(values.dtype) @ values

    def mean_by_image(self, values: Float[Tensor, " supervised"]) -> Float[Tensor, " images"]:
        """The same as means, weighted as the loss is; 0 where an image has no answer."""
        weights = self.batch.label_weights.flatten().index_select(0, self.sums.rows)
        total = self.by_image(weights)
        return self.by_image(values * weights) / torch.where(total == 0, torch.ones_like(total), total)

    @torch.no_grad()
    def losses_of(self, embeddings: Float[Tensor, "rows tokens width"]) -> Float[Tensor, " supervised"]:
        """Loss of every supervised token where the language model is given these embeddings instead.

        Args:
            embeddings: as `self.embeddings`.
        """
        states = self.model.get_decoder()(inputs_embeds=embeddings, **self.options).last_hidden_state
        head, labels = self.model.get_output_embeddings(), self.batch.labels
        return loss_sums(states, head, labels, rows=self.sums.rows).token_losses


class Teacher(ABC):
    """Says what each kept crop was worth; one's own inherits from this class and is named by `objective.teacher`."""

    @abstractmethod
    def __call__(self, reading: Reading) -> Float[Tensor, "images kept"]:
        """What each kept crop was worth to the answers about its image: not negative, the more the better.

        Every rank must call the language model equally often, whatever it has read, where it has no image too: sharded
        ones wait for each other.

        Args:
            reading: of a batch.
        """

    @abstractmethod
    def num_flops(self, config: DragonflyConfig, work: Work) -> int:
        """Matmul FLOPs for a batch.

        Args:
            config: of the model.
            work: what the batch holds.
        """


class Attention(Teacher):
    """How much of their attention the answers pay to each kept crop, as a share of what they pay to all of them.

    The mean over heads, over the first `blocks` blocks, and over the tokens that foretell the answers. It is computed
    once more, with whole matrices of tokens by tokens, so it wants rows that are short.

    Args:
        blocks: of the language model, from the first; None is all.
    """

    def __init__(self, *, blocks: int | None = 1) -> None:
        if blocks is not None and (type(blocks) is not int or blocks < 1):
            raise ValueError(
                f"objective.teacher.blocks={blocks}: give a whole number, 1 or more, or null for all blocks."
            )
        self.blocks = blocks

    def __call__(self, reading: Reading) -> Float[Tensor, "images kept"]:
        decoder, batch = reading.model.get_decoder(), reading.batch
        embeddings = reading.embeddings.detach()
        with torch.no_grad(), _whole_matrices(decoder):
            options = {name: value for name, value in reading.options.items() if name != "packing"}
            options |= {"attention_mask": None, "output_attentions": True}
            options |= attention_arguments(decoder.config, batch.sample_ids, batch.branch_ids, embeddings.dtype)
            weights = decoder(inputs_embeds=embeddings, **options).attentions[: self.blocks]
        paid = torch.stack([each.mean(dim=1) for each in weights]).mean(dim=0)
        paid = paid.flatten(0, 1).index_select(0, reading.sums.rows - 1).float()  # of the tokens that foretell
        by_image = reading.about.to(paid.dtype) @ paid
        kept = by_image.gather(1, reading.slots.flatten(1) % batch.input_ids.shape[1])
        return _shares(kept.unflatten(1, reading.slots.shape[1:]).sum(dim=-1))

    def num_flops(self, config: DragonflyConfig, work: Work) -> int:
        """A forward without the head; what whole matrices compute of hidden pairs is not counted."""
        linear, attention, _ = language_flops(config, work)
        return linear + attention


class Gradient(Teacher):
    """How much the loss of the answers depends on each kept crop: the norm of its gradient there, as a share."""

    def __call__(self, reading: Reading) -> Float[Tensor, "images kept"]:
        (slope,) = torch.autograd.grad(reading.sums.loss, reading.embeddings, retain_graph=True)
        slope = slope.flatten(0, 1)[reading.slots].float()
        return _shares(slope.flatten(2).norm(dim=-1))

    def num_flops(self, config: DragonflyConfig, work: Work) -> int:
        """A backward of the language model without gradients of its weights."""
        linear, attention, head = language_flops(config, work)
        return linear + head + 2 * attention


class LeftOut(Teacher):
    """By how much the mean loss of the answers rises, in nats a token, where a crop holds the mean of the kept ones.

    Of each image some kept crops are drawn and left out one after the other; its place stays, so nothing else moves. Of
    a sample with several images one crop of each is left out at a time.

    Args:
        crops: of each image, each of which costs a forward of the language model.
    """

    def __init__(self, *, crops: int = 4) -> None:
        if type(crops) is not int or crops < 1:
            raise ValueError(f"objective.teacher.crops={crops}: give a whole number, 1 or more.")
        self.crops = crops

    def __call__(self, reading: Reading) -> Float[Tensor, "images kept"]:
        slots, embeddings = reading.slots, reading.embeddings.detach()
        images, kept = slots.shape[:2]
        flat = embeddings.flatten(0, 1)
        middle = flat[slots].mean(dim=1)
        drawn = torch.rand(images, kept, device=slots.device).argsort(dim=1)[:, : self.crops]
        before = reading.mean_by_image(reading.sums.token_losses)
        worth = before.new_zeros(images, kept)
        for crop in drawn.unbind(dim=1):
            places = slots[torch.arange(images, device=slots.device), crop]
            without = flat.index_put((places,), middle).view_as(embeddings)
            risen = reading.mean_by_image(reading.losses_of(without)) - before
            worth = worth.scatter(1, crop[:, None], risen.clamp(min=0)[:, None])
        return worth

    def num_flops(self, config: DragonflyConfig, work: Work) -> int:
        """A forward for each crop, at most as many as are kept."""
        return min(self.crops, config.layout.zoom.num_high_kept) * sum(language_flops(config, work))


def _shares(values: Float[Tensor, "images kept"]) -> Float[Tensor, "images kept"]:
    """Each value by the sum of its image's; zeros where that is 0."""
    total = values.sum(dim=1, keepdim=True)
    return values / torch.where(total == 0, torch.ones_like(total), total)


@contextmanager
def _whole_matrices(decoder: Any) -> Iterator[None]:
    """Within, attention gives its weights."""
    usual = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    try:
        yield
    finally:
        decoder.config._attn_implementation = usual
