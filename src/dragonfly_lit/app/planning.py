"""What a configuration comes to before anything of it is loaded: sizes, work, memory and traffic of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from dragonfly_lit.app.recipe import recipe_of
from dragonfly_lit.app.sizes import check_image_fits, frozen_model, model_config

if TYPE_CHECKING:
    from dragonfly_lit.data.packing import Cost
    from dragonfly_lit.models.config import DragonflyConfig
    from dragonfly_lit.models.flops import Work
    from dragonfly_lit.training.costs import Memory

RESERVED = 5e9
"""Bytes that CUDA, NCCL and fragmentation take beside what torch allocates."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run would run on.

    Attributes:
        gpu: its name.
        memory: bytes of a GPU.
        peak: dense bfloat16 FLOP/s of a GPU.
        mfu: share of the peak that is expected.
        node: bytes/s of a GPU to the others of its node.
        network: bytes/s of a GPU between nodes.
    """

    gpu: str
    memory: float | int
    peak: float | int
    mfu: float | int
    node: float | int
    network: float | int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would hold, compute and send; bytes and seconds are those of one GPU.

    Attributes:
        parameters: of the model, and of its trained part.
        layout_tokens: tokens of an image.
        ranks: GPUs.
        shards: of them, that divide the weights.
        accumulate: micro-batches a step.
        work: of one micro-batch.
        samples: of one micro-batch, not rounded.
        flops: of a step.
        again: what checkpointing computes a second time in a step.
        memory: by part.
        sent: bytes a step by collective and the link that carries them.
        computing: seconds a step.
        sending: likewise.
        unknown: class of a tower that cannot be run without numbers: the built-in one is counted in its place.
    """

    parameters: tuple[int, int]
    layout_tokens: int
    ranks: int
    shards: int
    accumulate: int
    work: Work
    samples: float | int
    flops: float | int
    again: float | int
    memory: Memory
    sent: dict[str, float | int]
    computing: float | int
    sending: float | int
    unknown: str | None = None

    def binds(self, machine: Machine) -> str:
        """`memory`, `network` or `compute`."""
        if self.memory.total + RESERVED > machine.memory:
            return "memory"
        return "network" if self.sending > self.computing else "compute"


def work_of(config: Mapping[str, Any], sizes: DragonflyConfig, text_tokens: int) -> tuple[Work, float]:
    """The largest micro-batch, and how many samples it has, of one image and `text_tokens` tokens each.

    Raises:
        ValueError: an image alone is longer than a sample may be.
    """
    from dragonfly_lit.data.packing import BatchShape, Planned
    from dragonfly_lit.models.flops import Work

    layout, longest = sizes.layout, config["model"]["max_tokens"]
    check_image_fits(layout.num_tokens, longest)
    batch = config["data"].get("batch") or {}
    size, cost = recipe_of(dict(config)).get("batch_size"), cost_of(config)
    shape = BatchShape.of(batch, size=size, max_tokens=longest, cost=cost)
    length = min(longest, layout.num_tokens + text_tokens)
    samples = float(shape.size)
    if shape.mode == "packed":
        one = Planned(num_tokens=length, num_crops=layout.zoom.num_crops)
        samples = max(1.0, shape.max_tokens / (length if cost is None else cost.of(one)))
    if shape.max_crops is not None:
        fitting = shape.max_crops / layout.zoom.num_crops
        samples = max(1.0, min(samples, fitting if shape.mode == "packed" else float(int(fitting))))
    tokens = shape.max_tokens if shape.mode == "packed" and cost is None else round(samples * length)
    found = Work(
        images=max(1, int(samples)),
        tokens=tokens,
        pairs=round(samples * length * (length + 1) / 2),
        supervised=max(1, tokens - round(samples * layout.num_tokens)),
    )
    return found, samples


def cost_of(config: Mapping[str, Any]) -> Cost | None:
    """What `data.batch.balance=flops` counts with; None where nothing asks for it.

    Raises:
        ValueError: the sizes of the model are not known.
    """
    if (config["data"].get("batch") or {}).get("balance") != "flops":
        return None
    from dragonfly_lit.app.stage import what_trains
    from dragonfly_lit.data.packing import Cost
    from dragonfly_lit.models.flops import relative_costs

    sizes = model_config(config)
    trained = frozen_model(sizes, what_trains(config["stage"]), config["model"].get("quantize"))[1]
    crop, pair = relative_costs(sizes, trained)
    return Cost(crop=crop, pair=pair)


def plan(config: Mapping[str, Any], machine: Machine, text_tokens: int = 128) -> Plan:
    """What a resolved configuration comes to.

    Args:
        config: resolved, its values checked, its processes whole numbers.
        machine: what it would run on.
        text_tokens: of a sample, beside its image.

    Raises:
        ValueError: a part is not known, or nothing that a group names trains.
    """
    from dragonfly_lit.app.objective import build_objective, refers
    from dragonfly_lit.app.stage import what_trains
    from dragonfly_lit.models.flops import FORWARD, knows_tower, step_flops
    from dragonfly_lit.models.quantized import quantized_layers, quantized_size
    from dragonfly_lit.training.costs import memory, payload_bytes, sharding_units
    from dragonfly_lit.training.counted import kept_of_tower
    from dragonfly_lit.training.lora import is_adapter
    from dragonfly_lit.training.network import TrainingNetwork

    trainer, strategy, stage = config["trainer"], config["strategy"], what_trains(config["stage"])
    sizes = model_config(config)
    work, samples = work_of(config, sizes, text_tokens)
    model, trained = frozen_model(sizes, stage, config["model"].get("quantize"))
    few, few_bytes = quantized_size(model)
    found = sharding_units(TrainingNetwork(model))
    flops = step_flops(sizes, work, trained)
    referred = 0
    if refers(config):
        referred = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and not is_adapter(n))
        flops |= {f"{part} of the reference": n for part, n in step_flops(sizes, work, FORWARD).items()}
    if more := build_objective(config).more_flops(sizes, work):
        flops["teacher"] = more
    ranks = trainer["devices"] * trainer["num_nodes"]
    sharded, modes = strategy["name"] == "fsdp", _modes(strategy.get("activation_checkpointing", "none"))
    replicas = int(strategy.get("replicate") or 1)
    shards = max(1, ranks // replicas) if sharded else 1
    half = trainer["precision"] != "fp32"
    summed = 2 if half and trainer["gradients"] == "bfloat16" else 4
    kind = "float32" if not half else "sharded" if sharded else "bfloat16"
    counts = sizes.vision_tower is not None and trained.vision
    own = kept_of_tower(sizes, half=half) if counts else None
    unknown = not knows_tower(sizes) or (counts and own is None)
    held = memory(
        sizes,
        found,
        work,
        kind=kind,
        trains=(trained.vision, trained.language),
        shards=shards,
        checkpointing=modes,
        accumulates=stage.accumulate > 1,
        gradient_bytes=summed if kind == "bfloat16" else 4,
        moments=_moments(config["stage"].get("optimizer")),
        offloaded=bool(strategy.get("offload")),
        repeated_heads=not half,  # float32 has no variable-length kernel on a GPU
        compiled=_compiles(trainer),
        own_tower=own,
        quantized=(few_bytes, max((prod(layer.shape) for layer in quantized_layers(model).values()), default=0)),
        referred=referred,
    )
    whole = ("full", "offload")
    again = flops["language"] * (modes[1] in whole) + flops["vision"] * (trained.vision and modes[0] in whole)
    sent, sending = _traffic(
        payload_bytes(found, strategy["name"], 2 if half else 4, summed) if ranks > 1 else {},
        accumulate=stage.accumulate,
        last_only=strategy.get("reduce") == "last",
        shards=shards,
        replicas=replicas if sharded else ranks,
        devices=trainer["devices"],
        machine=machine,
    )
    total = stage.accumulate * sum(flops.values())
    return Plan(
        parameters=(few + sum(unit.weights for unit in found), sum(unit.trained for unit in found)),
        layout_tokens=sizes.layout.num_tokens,
        ranks=ranks,
        shards=shards,
        accumulate=stage.accumulate,
        work=work,
        samples=samples,
        flops=total,
        again=stage.accumulate * again,
        memory=held,
        sent=sent,
        computing=(total + stage.accumulate * again) / (machine.mfu * machine.peak),
        sending=sending,
        unknown=str(sizes.vision_tower["_target_"]) if unknown and sizes.vision_tower else None,
    )


def _modes(given: Any) -> tuple[Any, Any]:
    """Checkpointing of the tower and of the language model: one for both, or one of each."""
    if isinstance(given, Mapping):
        return given.get("vision", "none"), given.get("language", "none")
    return given, given


def _compiles(trainer: Mapping[str, Any]) -> bool:
    """Whether blocks are compiled, where a GPU has what that takes."""
    return trainer["compile"] == "blocks" or (trainer["compile"] == "auto" and trainer["accelerator"] == "gpu")


def _moments(optimizer: Any) -> float | int:
    """Float32 numbers that an optimizer keeps of a weight: Adam's kind two, one with momentum one, an unknown one none.

    Those of 8 bits are a byte, and four more for every 256 of them.
    """
    name = str((optimizer or {}).get("_target_", "torch.optim.AdamW"))
    found = 2 if "Adam" in name else int(bool((optimizer or {}).get("momentum")))
    return found * (1 + 4 / 256) / 4 if "8bit" in name else found


def _traffic(
    payload: Mapping[str, int],
    *,
    accumulate: int,
    last_only: bool,
    shards: int,
    replicas: int,
    devices: int,
    machine: Machine,
) -> tuple[dict[str, float | int], float]:
    """Bytes that a rank sends in a step, and the seconds that it takes; a ring moves (N-1)/N of a payload."""
    sent: dict[str, float | int] = {}
    seconds = 0.0

    def add(name: str, size: float | int, group: int) -> None:
        nonlocal seconds
        within = group <= devices
        sent[f"{name}, {'within a node' if within else 'between nodes'}"] = size
        seconds += size / (machine.node if within else machine.network)

    if "all-reduce" in payload:  # once a step: a micro-batch before the last is added up in place
        add("all-reduce of gradients", 2 * (replicas - 1) / replicas * payload["all-reduce"], replicas)
    elif payload:
        ring = (shards - 1) / shards
        add("all-gather of weights", ring * accumulate * payload["all-gather"], shards)
        times = 1 if last_only else accumulate
        add("reduce-scatter of gradients", ring * times * payload["reduce-scatter"], shards)
        if replicas > 1:  # shards of one number lie on different nodes
            size = 2 * (replicas - 1) / replicas * times * payload["reduce-scatter"] / shards
            add("all-reduce of shards", size, shards * replicas)
    return sent, seconds
