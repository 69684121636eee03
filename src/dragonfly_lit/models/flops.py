"""Matmul FLOPs of a training step, exact from the config and what the batch holds.

A multiply-add counts as two. Norms, activations, softmax and the rotary rotation are left out, as is usual for
model FLOPs; attention counts only the pairs of tokens that see each other. Nothing that is computed a second time
(activation checkpointing, the recomputation inside flash attention) is counted, and what a CPU leaves out of the last
block, where no label reads it, is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from dragonfly_lit.models.build import build_projector, build_tower, build_zoom_rule
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.projector import Projector
from dragonfly_lit.models.vision import Tower
from dragonfly_lit.models.zoom import ZoomRule


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a batch, or a sum of batches, holds.

    Attributes:
        images: number of images.
        tokens: number of tokens without padding.
        pairs: pairs of tokens of which the second sees the first, itself included: the sum of `position_ids + 1`.
        supervised: number of supervised labels.
    """

    images: int
    tokens: int
    pairs: int
    supervised: int


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Which parts have weights that train.

    Attributes:
        vision: the tower.
        projector: the projector.
        language: the language model's own weights.
        adapters: low-rank ones in the language model; gradients pass through it, its own weights have none.
    """

    vision: bool
    projector: bool
    language: bool
    adapters: bool = False


FORWARD = Trained(vision=False, projector=False, language=False)
"""Of a pass that nothing is propagated back through, as a reference's."""


def patches_flops_per_crop(config: DragonflyConfig) -> int:
    """Forward from pixels to patch embeddings, for one crop."""
    vision = config.vision_config
    return 2 * (vision.image_size // vision.patch_size) ** 2 * 3 * vision.patch_size**2 * vision.hidden_size


def vision_flops_per_crop(config: DragonflyConfig) -> int:
    """Forward of the layers of the tower that are used, for one crop.

    A tower of one's own may know its own; else torch counts them. One that cannot be run without numbers counts as the
    built-in one.
    """
    if config.vision_tower is not None and (own := _own_tower(config)) is not None:
        return own
    vision, tokens = config.vision_config, config.layout.features_per_crop
    width, inner = vision.hidden_size, vision.intermediate_size
    layer = tokens * (8 * width**2 + 4 * width * inner) + 4 * tokens**2 * width
    return patches_flops_per_crop(config) + config.num_vision_layers_used * layer


def knows_tower(config: DragonflyConfig) -> bool:
    """Whether the FLOPs of the tower are its own, and not the built-in one's in place of them."""
    return config.vision_tower is None or _own_tower(config) is not None


_OWN: dict[str, int | None] = {}
"""By the parts of a config that a tower is built from: a run asks again and again."""


def _own_tower(config: DragonflyConfig) -> int | None:
    key = json.dumps([config.vision_tower, config.vision_config.to_dict(), config.feature_layer], default=str)
    if key not in _OWN:
        with torch.device("meta"):
            tower = build_tower(config)
            found = tower.num_flops()
            _OWN[key] = _counted(tower, config.vision_config.image_size) if found is None else found
    return _OWN[key]


def _counted(tower: Tower, side: int) -> int | None:
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            tower.eval()(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    except Exception:  # a class of the user's own may compute anything from its numbers
        return None
    return counter.get_total_flops()


def projector_rows(config: DragonflyConfig, *, affine: bool) -> tuple[int, int]:
    """Features that go through the projector for one image: for the language model, and for ranking the high crops.

    Before an affine projector come the means: of the patches that are pooled, and of the crops that are ranked.
    """
    layout, zoom = config.layout, config.layout.zoom
    if affine:
        return layout.num_slots, _rule(config).rows_projected() if zoom.selects else 0
    whole = layout.features_per_crop
    seen = int(zoom.low) + zoom.num_medium + zoom.num_high_kept
    return seen * whole, (zoom.num_medium + zoom.num_high) * whole * zoom.selects


def ranking_flops(config: DragonflyConfig) -> int:
    """Forward for one image of comparing its high crops, as its rule does; nothing where none is chosen."""
    return _rule(config).num_flops() if config.layout.zoom.selects else 0


def _rule(config: DragonflyConfig) -> ZoomRule:
    with torch.device("meta"):
        return build_zoom_rule(config)


def language_flops(config: DragonflyConfig, work: Work) -> tuple[int, int, int]:
    """Forward: of the linear layers, of attention, of the head on supervised rows."""
    text = config.text_config
    width, heads = text.hidden_size, text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or width // heads
    key_width = head_dim * (getattr(text, "num_key_value_heads", None) or heads)
    query_width = head_dim * heads
    weights = 2 * width * query_width + 2 * width * key_width + 3 * width * text.intermediate_size
    linear = 2 * work.tokens * text.num_hidden_layers * weights
    attention = 4 * work.pairs * text.num_hidden_layers * query_width
    return linear, attention, 2 * work.supervised * width * text.vocab_size


def step_flops(
    config: DragonflyConfig, work: Work, trained: Trained, projector: Projector | None = None
) -> dict[str, int]:
    """Forward and backward of `work`, by `part` and `part backward`.

    Backward costs as much as the forward for gradients of what goes in, where something before it trains, and again
    for gradients of the weights, where they train. A tower that trains sees the kept high crops twice when it
    selects: once to rank them, once with a graph. Adapters' own products and the backward of a learned score (both
    below a hundredth) are left out.

    Args:
        config: of the model.
        work: what the batch holds.
        trained: which parts train.
        projector: the model's, which knows its own cost; None builds what the config says, without weights.
    """
    if projector is None:
        with torch.device("meta"):
            projector = build_projector(config, build_tower(config).width)
    zoom = config.layout.zoom
    crop = vision_flops_per_crop(config) * work.images
    crop_backward = 2 * crop - patches_flops_per_crop(config) * work.images  # pixels need no gradient
    again = zoom.num_high_kept if zoom.selects and trained.vision else 0
    with_graph = zoom.num_crops - (zoom.num_high - zoom.num_high_kept if zoom.selects else 0)
    seen, ranked = (work.images * rows for rows in projector_rows(config, affine=projector.affine))
    linear, attention, head = language_flops(config, work)
    below = trained.vision or trained.projector
    through = below or trained.language or trained.adapters
    return {
        "vision": crop * (zoom.num_crops + again),
        "vision backward": crop_backward * with_graph * trained.vision,
        "projector": projector.num_flops(seen + ranked) + work.images * ranking_flops(config),
        "projector backward": projector.backward_flops(seen, weights=trained.projector, inputs=trained.vision),
        "language": linear + attention + head,
        "language backward": (linear + head) * (through + trained.language) + 2 * attention * through,
    }


def relative_costs(config: DragonflyConfig, trained: Trained) -> tuple[float, float]:
    """What a crop costs, and a pair of tokens that see each other, in tokens of text; forward and backward, no head."""

    def flops(**work: int) -> int:
        empty = {"images": 0, "tokens": 0, "pairs": 0, "supervised": 0}
        return sum(step_flops(config, Work(**empty | work), trained).values())

    token = flops(tokens=1)
    return flops(images=1) / config.layout.zoom.num_crops / token, flops(pairs=1) / token


PEAK_FLOPS = {
    "GB200": 2500e12, "B200": 2250e12, "GH200": 989e12, "H200 NVL": 835e12, "H200": 989e12, "H100 PCIe": 756e12,
    "H100 NVL": 835e12, "H100": 989e12, "H800 PCIe": 756e12, "H800": 989e12, "H20": 148e12, "A100": 312e12,
    "A800": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12,
    "RTX PRO 6000": 503e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "V100": 125e12, "MI300X": 1307e12,
}  # fmt: skip
"""Dense bfloat16 FLOP/s by the words of a GPU's name; the first match counts, so a longer name comes first.

From the makers' data sheets, without sparsity: where a sheet gives only the sparse number (H100 and B200 families),
half of it; GB200 is a GPU of a GB200 NVL72. V100 has no bfloat16: its float16.
"""
_SLOWER = re.compile(r"\b(Laptop|Max-Q|4090 D)\b")
"""Of what shares a name with a faster GPU."""


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU; None for one that is not known, and for a CPU."""
    if _SLOWER.search(device_name):
        return None
    return next((flops for name, flops in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", device_name)), None)
