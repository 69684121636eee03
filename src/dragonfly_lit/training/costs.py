"""What a run holds and sends, by arithmetic: weights unit by unit as FSDP2 shards them, activations layer by layer.

Bytes of activations are what autograd keeps of transformers' layers as they are written, or of compiled ones; a step is
highest where backward begins (all activations, and the logits of a chunk with their gradient) or where it ends (all
gradients). Held against one H200, and against what torch keeps of such layers, in `tests/unit/training/test_costs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.flops import Work
from dragonfly_lit.models.loss import ROWS_PER_CHUNK
from dragonfly_lit.training.counted import Kept
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.sharding import ActivationCheckpointing, ends, units

Kind = Literal["float32", "autocast", "sharded", "bfloat16"]
"""How trained weights are held and computed with: in float32; in float32, cast for each matmul; in float32 shards that
are gathered in bfloat16; in bfloat16 with float32 masters in the optimizer."""

SCORES = 2 + 4 + 4 + 4
"""Bytes a logit: as the head gives it, in float32, its log-softmax, and the gradient."""
FLOAT32_SCORES = 4 + 4 + 4


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Weights that are gathered together, and how often in a micro-batch.

    Attributes:
        frozen: number of frozen weights.
        trained: number of trained weights.
        gathers: all-gathers, forward and backward.
    """

    frozen: int
    trained: int
    gathers: int

    @property
    def weights(self) -> int:
        return self.frozen + self.trained


def sharding_units(network: TrainingNetwork) -> list[Unit]:
    """The units of a frozen-or-thawed network, the root last."""
    zoom = network.model.layout.zoom
    trains = {
        part: any(p.requires_grad for p in getattr(network.model, part).parameters())
        for part in ("vision", "projector", "language")
    }
    in_two = zoom.selects and trains["vision"]
    ranked = 2 * zoom.selects  # the projector on medium and on high crops
    forward = {"vision": 3 if in_two else 1, "projector": 1 + ranked, "language": 1}
    through = {"vision": 2 if in_two else int(trains["vision"]), "projector": 1, "language": 1}
    names, seen, found = {p: name for name, p in network.named_parameters()}, set(), []
    words_and_head = ends(network)
    for unit in units(network):
        mine = [p for p in unit.parameters() if p not in seen]
        seen.update(mine)
        part = names[mine[0]].split(".")[1]
        # The head stays gathered for backward, which does not ask for words.
        once = unit in words_and_head
        found.append(_unit(mine, 1 if once else forward.get(part, 1) + through.get(part, 1)))
    return [*found, _unit([p for p in names if p not in seen], 1)]


def _unit(weights: list[nn.Parameter], gathers: int) -> Unit:
    trained = sum(p.numel() for p in weights if p.requires_grad)
    frozen = sum(p.numel() for p in weights) - trained
    return Unit(frozen=frozen, trained=trained, gathers=gathers)


def held_bytes(found: list[Unit], strategy: str, world: int, frozen_bytes: int = 2) -> float | int:
    """Weights, gradients and optimizer state that a rank holds: float32 where they train."""
    frozen, trained = (sum(getattr(unit, kind) for unit in found) for kind in ("frozen", "trained"))
    return (frozen_bytes * frozen + 16 * trained) / (world if strategy == "fsdp" else 1)


def payload_bytes(found: list[Unit], strategy: str, gathered_bytes: int = 2, gradient_bytes: int = 4) -> dict[str, int]:
    """What the collectives of one micro-batch carry, whole tensors, by kind."""
    if strategy == "ddp":
        return {"all-reduce": gradient_bytes * sum(unit.trained for unit in found)}
    return {
        "all-gather": gathered_bytes * sum(unit.weights * unit.gathers for unit in found),
        "reduce-scatter": gradient_bytes * sum(unit.trained for unit in found),
    }


def block_bytes(
    config: DragonflyConfig, kind: Kind, *, trained: bool, repeated_heads: bool = True, compiled: bool = False
) -> int:
    """What one layer of the language model keeps of one token for its backward.

    Args:
        config: of the model.
        kind: how it is computed.
        trained: whether its weights train; a frozen layer keeps nothing for their gradients.
        repeated_heads: whether keys and values are kept once a query head.
        compiled: whether it is one graph, which computes norms, rotations and the gate again.
    """
    text, size = config.text_config, 4 if kind == "float32" else 2
    width, inner, heads = text.hidden_size, text.intermediate_size, text.num_attention_heads
    head = getattr(text, "head_dim", None) or width // heads
    query = head * heads
    key = query if repeated_heads else head * (getattr(text, "num_key_value_heads", None) or heads)
    if compiled:
        return size * (2 * width + 2 * query + 2 * key + 2 * inner + trained * (2 * width + inner))
    kept = 8 * width + size * (2 * query + 2 * key) + size * 3 * inner  # float32 copies in two norms
    if trained and kind == "autocast":
        return kept + 8 * width + 10 * width + size * inner  # each matmul casts its input anew
    return kept + trained * (2 * size * width + 2 * size * width + size * inner)


def tower_bytes(config: DragonflyConfig, kind: Kind, *, compiled: bool = False) -> int:
    """What one layer of the tower keeps of one feature."""
    vision, size = config.vision_config, 4 if kind == "float32" else 2
    if compiled:
        return size * (8 * vision.hidden_size + 2 * vision.intermediate_size)
    more = 10 * vision.hidden_size if kind == "autocast" else 0
    return size * (9 * vision.hidden_size + 3.5 * vision.intermediate_size).__ceil__() + more


def _outputs_of_matmuls(config: DragonflyConfig, size: int) -> int:
    """Of one layer and token, what selective checkpointing keeps: matmuls, attention, and the layer's input."""
    text = config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    query, key = head * text.num_attention_heads, head * text.num_key_value_heads
    return size * (2 * query + 2 * key + 3 * text.hidden_size + 2 * text.intermediate_size)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a GPU holds where a step is highest, by part."""

    weights: float | int
    optimizer: float | int
    gradients: float | int
    gathered: float | int
    language: float | int
    tower: float | int
    logits: float | int
    reference: float | int = 0
    """What an objective with a reference keeps twice."""

    @property
    def held(self) -> float | int:
        """What does not depend on the batch."""
        return self.weights + self.optimizer + self.gradients + self.reference

    @property
    def total(self) -> float | int:
        return self.held + self.gathered + self.language + self.tower + self.logits


def memory(
    config: DragonflyConfig,
    found: list[Unit],
    work: Work,
    *,
    kind: Kind,
    trains: tuple[bool, bool],
    shards: int = 1,
    checkpointing: tuple[ActivationCheckpointing, ActivationCheckpointing] = ("none", "none"),
    accumulates: bool = False,
    gradient_bytes: int = 4,
    moments: float | int = 2,
    offloaded: bool = False,
    repeated_heads: bool = True,
    compiled: bool = False,
    own_tower: Kept | None = None,
    quantized: tuple[int, int] = (0, 0),
    referred: int = 0,
) -> Memory:
    """What one rank holds where a step of micro-batches of `work` is highest.

    Args:
        config: of the model.
        found: its units.
        work: of the largest micro-batch.
        kind: how trained weights are held.
        trains: whether the tower's and the language model's own weights train.
        shards: ranks among which weights, gradients and optimizer are divided.
        checkpointing: of the tower's and of the language model's activations.
        accumulates: whether gradients of an earlier micro-batch lie there already.
        gradient_bytes: of the gradient of a weight.
        moments: float32 numbers that the optimizer keeps of a weight.
        offloaded: whether shards, gradients and optimizer lie in the host's memory.
        repeated_heads: as in `block_bytes`.
        compiled: likewise, and of the tower's layers.
        own_tower: what a tower that is not the built-in one keeps of a crop.
        quantized: bytes of weights that are held in few bits, and the weights of the largest layer of them, which is
            dequantised where it is needed.
        referred: trained weights that are kept as they were at the start, in the type in which the model holds them.
    """
    tower_trains, language_trains = trains
    sharded, size = kind == "sharded", 4 if kind == "float32" else 2
    frozen, trained = (sum(getattr(unit, name) for unit in found) for name in ("frozen", "trained"))
    masters = 4 if kind == "bfloat16" else 0
    weight = 2 if kind == "bfloat16" else 4
    root, largest = found[-1], max((unit.weights for unit in found[:-1]), default=0)
    casts = 2 * sum(unit.trained for unit in found[:-1]) if kind == "autocast" else 0
    gathered = (size * (root.weights + 2 * largest) if sharded else casts) + size * quantized[1]
    layers = config.text_config.num_hidden_layers
    block = block_bytes(config, kind, trained=language_trains, repeated_heads=repeated_heads, compiled=compiled)
    kept = {
        "none": layers * block,
        "selective": layers * min(block, _outputs_of_matmuls(config, size)) + block,
        "full": layers * size * config.text_config.hidden_size + block,
        "offload": block,  # inputs of layers wait in the host's memory
    }[checkpointing[1]]
    layout = config.layout
    crops = layout.zoom.num_crops - (layout.zoom.num_high - layout.zoom.num_high_kept)
    features, used = work.images * crops * layout.features_per_crop, config.num_vision_layers_used
    feature = tower_bytes(config, kind, compiled=compiled)
    inputs = used * size * config.vision_config.hidden_size * (checkpointing[0] != "offload")
    seen = features * (used * feature if checkpointing[0] == "none" else inputs + feature)
    if own_tower is not None:
        seen = work.images * crops * own_tower.under(checkpointing[0])
    scores = (FLOAT32_SCORES if kind == "float32" else SCORES) * config.text_config.vocab_size
    here = 0.0 if offloaded else 1 / shards
    gradients = gradient_bytes * trained * here
    begins = Memory(
        weights=(size * frozen + weight * trained) * here + quantized[0],
        optimizer=(4 * moments + masters) * trained * here,
        gradients=gradients * accumulates,
        gathered=gathered,
        language=work.tokens * kept,
        tower=seen * tower_trains,
        logits=scores * min(ROWS_PER_CHUNK, work.supervised),
        reference=weight * referred * here,
    )
    ends = Memory(
        weights=begins.weights,
        optimizer=begins.optimizer,
        gradients=gradients,
        gathered=gathered + (2 * root.trained if sharded else 0),  # the root's gradients are reduced last
        language=0.0,
        tower=0.0,
        logits=0.0,
        reference=begins.reference,
    )
    return max(begins, ends, key=lambda found: found.total)
