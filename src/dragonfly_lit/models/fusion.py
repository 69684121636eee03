"""Image tokens into their slots, counts checked; and which row and sample each image belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


def slots_of_images(
    input_ids: Int[Tensor, "rows tokens"],
    image_token_id: int,
    num_images: int,
    slots_per_image: int,
    slots: Int[Tensor, " filled"] | None = None,
) -> Int[Tensor, "images slots"]:
    """Flat positions (row-major) of every image's slots, in the order in which the images come.

    Args:
        input_ids: with the slots in place.
        image_token_id: what a slot is.
        num_images: number of images.
        slots_per_image: that each of them fills.
        slots: all of them, where they are known; to find them the host waits for the device.

    Raises:
        ValueError: the slots in `input_ids` are not those of `num_images` images.
    """
    if slots is None:
        slots = (input_ids.flatten() == image_token_id).nonzero().squeeze(1)
    expected = num_images * slots_per_image
    if slots.numel() != expected:
        raise ValueError(
            f"input_ids has {slots.numel()} image slots (token {image_token_id}), but {num_images} images of "
            f"{slots_per_image} tokens fill {expected}: features would land on the wrong words. "
            "Build ids and crops with the same zoom, and give pixel_values for every image in the text."
        )
    return slots.view(num_images, slots_per_image)


def ids_of_slots(
    embeddings: Float[Tensor, "rows tokens width"], slot: Float[Tensor, " width"], image_token_id: int
) -> Int[Tensor, "rows tokens"]:
    """`image_token_id` where a word embedding is that of a slot, -1 elsewhere."""
    return torch.where((embeddings == slot.to(embeddings)).all(-1), image_token_id, -1)


def fill_slots(
    embeddings: Float[Tensor, "rows tokens width"],
    slots: Int[Tensor, "images slots"],
    image_tokens: Float[Tensor, "images slots width"],
) -> Float[Tensor, "rows tokens width"]:
    """Word embeddings with the image tokens in their slots."""
    # By row and place, so that no view is handed on: to a compiled block a view is another case than a tensor.
    places = slots // embeddings.shape[1], slots % embeddings.shape[1]
    return embeddings.index_put(places, image_tokens.to(embeddings.dtype))


@contextmanager
def added_at_slots(
    decoder: Any, slots: Int[Tensor, "images slots"], deeper: Sequence[Float[Tensor, "images slots width"]]
) -> Iterator[None]:
    """Within, the first of `deeper` is added to the hidden states at the slots before the second block, and so on.

    Args:
        decoder: whose blocks are `layers`.
        slots: flat places, row-major.
        deeper: image tokens; none leaves the decoder as it is.

    Raises:
        ValueError: backward would compute a block again without them.
    """
    if deeper and _computes_without_hooks(decoder):
        raise ValueError(
            f"projector.depth={1 + len(deeper)}: transformers {transformers.__version__} computes blocks again "
            "without the image tokens that are added between them. Use a later one (5.23 keeps them), or "
            "strategy.activation_checkpointing in place of transformers' gradient checkpointing."
        )
    with ExitStack() as stack:
        for block, tokens in zip(decoder.layers[1:], deeper, strict=False) if deeper else ():
            hook = block.register_forward_pre_hook(partial(_add, slots, tokens))
            stack.callback(hook.remove)
        yield


def _computes_without_hooks(decoder: Any) -> bool:
    """Whether backward will compute blocks again without the hooks that they have now."""
    checkpoints = any(getattr(block, "gradient_checkpointing", False) and block.training for block in decoder.layers)
    return checkpoints and "__call__" in vars(GradientCheckpointingLayer)  # later ones compute `forward` alone again


def _add(slots: Tensor, tokens: Tensor, _block: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden, *others = arguments
    places = slots // hidden.shape[1], slots % hidden.shape[1]
    return hidden.index_put(places, tokens.to(hidden.dtype), accumulate=True), *others


def question_means(
    embeddings: Float[Tensor, "rows tokens width"],
    slots: Int[Tensor, "images slots"],
    question_mask: Tensor,
    sample_ids: Tensor | None,
) -> tuple[Float[Tensor, "images width"], Int[Tensor, " images"]]:
    """Mean word embedding of the question about each image, and how many words that were.

    The question of an image is every masked token of its sample; branches that share an image are averaged.
    """
    rows, tokens, _ = embeddings.shape
    first = slots[:, 0]
    row = first // tokens
    mask = torch.zeros(rows, tokens, dtype=torch.bool, device=embeddings.device)
    mask[:, : question_mask.shape[1]] = question_mask.bool()
    mask = mask[row]
    if sample_ids is not None:
        mask = mask & (sample_ids[row] == sample_ids.flatten()[first].unsqueeze(1))
    weights = mask.to(embeddings.dtype)
    counts = mask.sum(1)
    sums = torch.einsum("nt,ntd->nd", weights, embeddings[row])
    return sums / counts.clamp(min=1).unsqueeze(1), counts
