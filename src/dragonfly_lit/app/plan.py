"""`python -m dragonfly_lit plan [key=value ...]`: what fits and what binds, before anyone queues."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragonfly_lit.app.recipe import recipe_of
from dragonfly_lit.io.parsers import plan_parser

if TYPE_CHECKING:
    from torch import nn

    from dragonfly_lit.data.packing import Cost
    from dragonfly_lit.models.config import DragonflyConfig
    from dragonfly_lit.models.flops import Trained, Work
    from dragonfly_lit.training.costs import Memory
    from dragonfly_lit.training.stages import Stage

GPUS = {
    "H100": (80, 450), "H200": (141, 450), "H800": (80, 200), "H20": (96, 450), "A100": (80, 300), "A800": (80, 200),
    "B200": (180, 900), "GB200": (186, 900), "L40S": (48, 32), "L40": (48, 32), "L4": (24, 32), "A10": (24, 32),
    "RTX 4090": (24, 32), "RTX 3090": (24, 32), "MI300X": (192, 448),
}  # fmt: skip
"""Gigabytes, and GB/s of a GPU to the others of its node (NVLink one way, else PCIe), from the makers' data sheets."""
RESERVED = 5e9
"""Bytes that CUDA, NCCL and fragmentation take beside what torch allocates."""


class DoesNotFitError(ValueError):
    """Weights, gradients and optimizer are larger than a GPU."""


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

    def binds(self, machine: Machine) -> str:
        """`memory`, `network` or `compute`."""
        if self.memory.total + RESERVED > machine.memory:
            return "memory"
        return "network" if self.sending > self.computing else "compute"


def known_folder(path: str) -> str:
    """The folder of a part, or of the config.json that comes with the package where the part is not on disk."""
    shipped = Path(__file__).parents[1] / "models/known_configs" / Path(path).name
    return str(shipped) if not Path(path).exists() and (shipped / "config.json").is_file() else path


def model_config(config: Mapping[str, Any]) -> DragonflyConfig:
    """The model's config from the configuration, its parts' config.json and nothing else.

    Raises:
        ValueError: a part is neither on disk nor known, or has no config of its own.
    """
    from dragonfly_lit.app.check import check_weights
    from dragonfly_lit.app.factories import own_parts, zoom_of
    from dragonfly_lit.io.foreign import read_json, read_model_config
    from dragonfly_lit.models.backbones import BUILTIN, builtin_folder, vision_config_of
    from dragonfly_lit.models.config import OWN_PARTS, DragonflyConfig
    from dragonfly_lit.models.released_keys import text_config
    from dragonfly_lit.spec.released import released_zoom

    vision, language, model = config["vision"], config["language"], config["model"]
    folders = {name: Path(known_folder(config[name]["path"])) for name in ("vision", "language")}
    for name, folder in folders.items():
        if config[name]["path"] == BUILTIN:
            folders[name] = builtin_folder(name)
        else:
            check_weights(name, str(folder), dict(config))
    if folders["language"].suffix == ".gguf":
        raise ValueError(f"language.path={language['path']}: plan reads a config.json, which a .gguf file has not.")
    tower = vision_config_of(folders["vision"], folders["vision"], None)
    tower.image_size = vision["image_size"] or tower.image_size
    if model["released"]:
        words = text_config(read_json(Path(model["released"]) / "config.json"))
        zoom = released_zoom(model["version"])
    else:
        words = read_model_config(folders["language"], where=f"language.path={language['path']}")
        zoom = zoom_of(dict(config))
    parts = {} if model["released"] else dict(zip(OWN_PARTS, own_parts(dict(config)).values(), strict=True))
    return DragonflyConfig(
        vision_config=tower, text_config=words, zoom=vars(zoom), feature_layer=vision["feature_layer"], **parts
    )


def work_of(config: Mapping[str, Any], sizes: DragonflyConfig, text_tokens: int) -> tuple[Work, float]:
    """The largest micro-batch, and how many samples it has, of one image and `text_tokens` tokens each.

    Raises:
        ValueError: an image alone is longer than a sample may be.
    """
    from dragonfly_lit.data.packing import BatchShape, Planned
    from dragonfly_lit.models.flops import Work

    layout, longest = sizes.layout, config["model"]["max_tokens"]
    if layout.num_tokens >= longest:
        raise ValueError(
            f"an image takes {layout.num_tokens:,} tokens, and a sample may have model.max_tokens={longest:,}. Raise "
            "it, or set a larger zoom.pool, a smaller zoom.top_k, or another tower."
        )
    batch = config["data"].get("batch") or {}
    size, cost = recipe_of(dict(config)).get("batch_size"), cost_of(config)
    shape = BatchShape.of(batch, size=size, max_tokens=longest, cost=cost)
    length = min(longest, layout.num_tokens + text_tokens)
    samples = float(shape.size)
    if shape.mode == "packed":
        one = Planned(num_tokens=length, num_crops=layout.zoom.num_crops)
        samples = max(1.0, shape.max_tokens / (length if cost is None else cost.of(one)))
        if shape.max_crops is not None:
            samples = max(1.0, min(samples, shape.max_crops / layout.zoom.num_crops))
    tokens = shape.max_tokens if shape.mode == "packed" and cost is None else round(samples * length)
    found = Work(
        images=max(1, int(samples)),
        tokens=tokens,
        pairs=round(samples * length * (length + 1) / 2),
        supervised=max(1, tokens - round(samples * layout.num_tokens)),
    )
    return found, samples


def frozen_model(sizes: DragonflyConfig, stage: Stage) -> tuple[nn.Module, Trained]:
    """The model of a stage on the meta device, and which parts of it train."""
    import torch

    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
    from dragonfly_lit.models.flops import Trained
    from dragonfly_lit.training.lora import add_adapters
    from dragonfly_lit.training.stages import freeze

    with torch.device("meta"):
        model = DragonflyForConditionalGeneration(sizes)
        if stage.lora is not None:
            add_adapters(model.language, stage.lora)
    freeze(model, stage)
    trains = {
        name: any(p.requires_grad and "lora_" not in n for n, p in getattr(model, name).named_parameters())
        for name in ("vision", "projector", "language")
    }
    return model, Trained(**trains, adapters=stage.lora is not None)


def cost_of(config: Mapping[str, Any]) -> Cost | None:
    """What `data.batch.balance=flops` counts with; None where nothing asks for it.

    Raises:
        ValueError: the sizes of the model are not known.
    """
    if (config["data"].get("batch") or {}).get("balance") != "flops":
        return None
    from dragonfly_lit.app.stage import build_stage
    from dragonfly_lit.data.packing import Cost
    from dragonfly_lit.models.flops import relative_costs

    sizes = model_config(config)
    crop, pair = relative_costs(sizes, frozen_model(sizes, build_stage(config["stage"]))[1])
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
    from dragonfly_lit.app.stage import build_stage
    from dragonfly_lit.models.flops import step_flops
    from dragonfly_lit.training.costs import memory, payload_bytes, sharding_units
    from dragonfly_lit.training.network import TrainingNetwork

    trainer, strategy, stage = config["trainer"], config["strategy"], build_stage(config["stage"])
    sizes = model_config(config)
    work, samples = work_of(config, sizes, text_tokens)
    model, trained = frozen_model(sizes, stage)
    found = sharding_units(TrainingNetwork(model))
    flops = step_flops(sizes, work, trained)
    ranks = trainer["devices"] * trainer["num_nodes"]
    sharded, modes = strategy["name"] == "fsdp", _modes(strategy.get("activation_checkpointing", "none"))
    replicas = int(strategy.get("replicate") or 1)
    shards = max(1, ranks // replicas) if sharded else 1
    half = trainer["precision"] != "fp32"
    kind = "float32" if not half else "sharded" if sharded else "bfloat16"
    held = memory(
        sizes,
        found,
        work,
        kind=kind,
        trains=(trained.vision, trained.language),
        shards=shards,
        checkpointing=modes,
        accumulates=stage.accumulate > 1,
        gradient_bytes=2 if kind == "bfloat16" and trainer["gradients"] == "bfloat16" else 4,
        moments=_moments(config["stage"].get("optimizer")),
        offloaded=bool(strategy.get("offload")),
    )
    again = flops["language"] * (modes[1] == "full") + flops["vision"] * (trained.vision and modes[0] == "full")
    sent, sending = _traffic(
        payload_bytes(found, strategy["name"], 2 if half else 4) if ranks > 1 else {},
        accumulate=stage.accumulate,
        last_only=strategy.get("reduce") == "last",
        shards=shards,
        replicas=replicas if sharded else ranks,
        devices=trainer["devices"],
        trained=sum(unit.trained for unit in found),
        machine=machine,
    )
    total = stage.accumulate * sum(flops.values())
    return Plan(
        parameters=(sum(unit.weights for unit in found), sum(unit.trained for unit in found)),
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
    )


def _modes(given: Any) -> tuple[Any, Any]:
    """Checkpointing of the tower and of the language model: one for both, or one of each."""
    if isinstance(given, Mapping):
        return given.get("tower", given.get("vision", "none")), given.get("language", "none")
    return given, given


def _moments(optimizer: Any) -> int:
    """Numbers that an optimizer keeps of a weight: two of Adam's kind, one with momentum; of an unknown one none."""
    name = str((optimizer or {}).get("_target_", "torch.optim.AdamW"))
    return 2 if "Adam" in name else int(bool((optimizer or {}).get("momentum")))


def _traffic(
    payload: Mapping[str, int],
    *,
    accumulate: int,
    last_only: bool,
    shards: int,
    replicas: int,
    devices: int,
    trained: int,
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
            size = 2 * (replicas - 1) / replicas * times * 4 * trained / shards
            add("all-reduce of shards", size, shards * replicas)
    return sent, seconds


def ways_out(config: Mapping[str, Any], machine: Machine, text_tokens: int) -> list[str]:
    """Overrides under which a run fits that does not, each with what it would hold."""
    found = []
    for overrides in (
        {"strategy.activation_checkpointing": "selective"},
        {"strategy.activation_checkpointing": "full"},
        {"strategy": "fsdp"},
        {"strategy": "fsdp", "strategy.activation_checkpointing": "full"},
    ):
        other = copy.deepcopy(dict(config))
        if "strategy" in overrides:
            if other["strategy"]["name"] == "fsdp":
                continue
            other["strategy"]["name"] = "fsdp"
        other["strategy"]["activation_checkpointing"] = overrides.get("strategy.activation_checkpointing", "none")
        total = plan(other, machine, text_tokens).memory.total
        if total + RESERVED <= machine.memory:
            found.append(f"{' '.join(f'{key}={value}' for key, value in overrides.items())} ({total / 1e9:.1f} GB)")
    return found[:2]


def check_fits(config: Mapping[str, Any], gpu: str, gpu_memory: float | int) -> str | None:
    """Refuse a run whose weights, gradients and optimizer alone are too large; a line where the rest makes it so.

    Args:
        config: resolved.
        gpu: its name.
        gpu_memory: its bytes.

    Raises:
        DoesNotFitError: the arithmetic, and the way out.
    """
    machine = Machine(gpu=gpu, memory=gpu_memory, peak=1.0, mfu=1.0, node=1.0, network=1.0)
    found = plan(config, machine)
    held, sizes = found.memory, {key: size / 1e9 for key, size in vars(found.memory).items()}
    if held.total + RESERVED <= gpu_memory:
        return None
    fixed = ("weights", "optimizer", "gradients", "gathered")
    named = " + ".join(f"{sizes[key]:.1f} GB {key}" for key in fixed if sizes[key] > 0.05)
    fits = ways_out(config, machine, 128)
    advice = f"Set {' or '.join(fits)}." if fits else "Use more GPUs with strategy=fsdp, or a smaller model."
    if held.held + held.gathered > gpu_memory:
        over = f", over {found.shards} shards" if found.shards > 1 else ""
        raise DoesNotFitError(
            f"{found.parameters[0]:,} weights, {found.parameters[1]:,} of them trained{over}: "
            f"{named} = {(held.held + held.gathered) / 1e9:.1f} GB do not fit {gpu_memory / 1e9:.1f} GB of {gpu}. "
            f"{advice}"
        )
    kept = held.language + held.tower + held.logits
    return (
        f"{named} + {kept / 1e9:.1f} GB activations of {found.work.tokens:,} tokens = {held.total / 1e9:.1f} GB may "
        f"not fit {gpu_memory / 1e9:.1f} GB of {gpu}. {advice}"
    )


def look_for_room(config: Mapping[str, Any]) -> str | None:
    """`check_fits` on the GPU of this process; nothing where no plan can be made, which is not what a run fails of."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    try:
        return check_fits(config, properties.name, float(properties.total_memory))
    except DoesNotFitError:
        raise
    except Exception:  # a part of the user's own may be anything; building it says better what is wrong
        return None


def show(found: Plan, machine: Machine, advice: list[str]) -> str:
    """The plan as lines of at most 100 columns."""
    work, steps, held = found.work, found.ranks * found.accumulate, found.memory
    everything, trained = found.parameters
    again = f", and {found.again / 1e12:,.1f} again by checkpointing" if found.again else ""
    shards = f", over {found.shards} shards" if found.shards > 1 else ""
    seconds, binds = max(found.computing, found.sending), found.binds(machine)
    lines = [
        f"model    {everything:,} parameters, {trained:,} of them trained",
        f"input    {found.layout_tokens:,} tokens an image; a micro-batch is {work.tokens:,} tokens, "
        f"{found.samples:.1f} samples",
        f"step     {found.ranks} x {found.accumulate} micro-batches: {steps * work.tokens:,} tokens, "
        f"{steps * found.samples:,.1f} samples",
        f"compute  {found.flops / 1e12:,.1f} TFLOP a GPU{again}",
        f"         {found.computing:.3f} s at {100 * machine.mfu:.0f}% of the {machine.peak / 1e12:,.0f} TFLOP/s of "
        f"{machine.gpu}",
        f"memory   {held.total / 1e9:,.1f} GB of a GPU's {machine.memory / 1e9:,.0f}{shards}; {RESERVED / 1e9:.0f} GB "
        f"are kept free; highest where backward {'begins' if held.language else 'ends'}:",
    ]
    names = {"gathered": "gathered or cast", "language": "activations, language", "tower": "activations, tower"}
    lines += [f"         {size / 1e9:>8.1f} GB {names.get(key, key)}" for key, size in vars(held).items()]
    lines += [f"network  {size / 1e9:>8.2f} GB {name}" for name, size in found.sent.items()]
    if found.sent:
        lines.append(f"         {found.sending:.3f} s, which hide behind computing as far as they are shorter")
    lines.append(
        f"speed    {seconds:.3f} s a step: {steps * work.tokens / seconds:,.0f} tokens/s, "
        f"{steps * found.samples / seconds:,.1f} samples/s"
    )
    lines.append(f"binds    {binds}" + (f"; it fits with {' or with '.join(advice)}" if advice else ""))
    if binds == "memory" and not advice:
        lines[-1] += "; use more GPUs with strategy=fsdp, or a smaller data.batch.max_tokens"
    if binds == "network":
        enough = -(-round(work.tokens * found.sending / found.computing) // 1024) * 1024
        lines[-1] += f"; with data.batch.max_tokens={enough} and packed rows computing hides it"
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Print the plan of a run; status 1 where it does not fit.

    Raises:
        ValueError: the configuration is not one, or a part is not known.
    """
    given = plan_parser().parse_args(argv)
    if given.gpu not in GPUS:
        raise ValueError(
            f"--gpu={given.gpu} is not known. Use one of {', '.join(GPUS)}, and --memory for another size."
        )
    for name in ("memory", "mfu", "text", "network"):
        if getattr(given, name) is not None and getattr(given, name) <= 0:
            raise ValueError(f"--{name}={getattr(given, name)} must be above 0.")

    from dragonfly_lit.app.build import compose
    from dragonfly_lit.app.errors import describe
    from dragonfly_lit.app.factories import look_up_parts
    from dragonfly_lit.app.launch import resolve_processes
    from dragonfly_lit.app.values import check_values
    from dragonfly_lit.models.flops import peak_flops

    overrides = [*([f"--config-dir={given.config_dir}"] if given.config_dir else []), *given.overrides]
    try:
        config = compose(overrides)
    except Exception as error:  # Hydra's own kinds, which only `app` knows
        raise ValueError(describe(error, "train", overrides)) from error
    check_values(config, "train")
    resolve_processes(config)
    look_up_parts(config, file=None)
    memory, link = GPUS[given.gpu]
    machine = Machine(
        gpu=given.gpu,
        memory=(given.memory or memory) * 1e9,
        peak=peak_flops(given.gpu) or 0.0,
        mfu=given.mfu,
        node=link * 1e9,
        network=given.network / 8 * 1e9,
    )
    found = plan(config, machine, given.text)
    fits = found.binds(machine) != "memory"
    print(show(found, machine, [] if fits else ways_out(config, machine, given.text)))
    return 0 if fits else 1
