"""Memory and communication of 8 to 1,024 GPUs on paper, from exact sizes; `--check` holds the same formulas against
two real ranks.

    python benchmarks/scaling.py                              # v1 and v2, both stages, ddp and fsdp
    python benchmarks/scaling.py --sizes v2 --stages 2 --activation-checkpointing full
    python benchmarks/scaling.py --check                      # two gloo processes with a tiny model

Weights are counted on the meta device, unit by unit as FSDP2 shards them. Saved activations a token are those measured
for 32 eager layers of Llama-3-8B (4.48 MB frozen, 6.44 MB trained; checkpointed blocks keep their input), a tower's
are 32 bytes times width a layer (arXiv 2205.05198 without dropout and attention scores). A ring moves (N-1)/N of a
payload once for a gather or a scatter, twice for an all-reduce.
"""

from __future__ import annotations

import argparse
import json
import socket
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import torch
    import torch.distributed as dist
    import torch.multiprocessing as multiprocessing
    from rich.console import Console
    from rich.table import Table
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils._python_dispatch import TorchDispatchMode
    from train_step import SIZES, STAGES, samples, stage_of

    from dragonfly_lit.models.config import DragonflyConfig
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
    from dragonfly_lit.models.flops import Trained, Work, step_flops
    from dragonfly_lit.models.tiny import tiny_config, tiny_model, tiny_tokenizer
    from dragonfly_lit.processing.batches import collate
    from dragonfly_lit.processing.sequences import SequenceBuilder
    from dragonfly_lit.training.costs import Unit, held_bytes, payload_bytes, sharding_units
    from dragonfly_lit.training.network import TrainingNetwork
    from dragonfly_lit.training.optimizer import build_optimizer, no_decay_names, state_tensors
    from dragonfly_lit.training.precision import cast_weights, sharding_policy
    from dragonfly_lit.training.sharding import shard
    from dragonfly_lit.training.stages import freeze

GPU_GB, RESERVED_GB = 80, 5  # what CUDA, NCCL and fragmentation keep
NODE, NVLINK, NETWORK = 8, 450e9, 50e9  # GPUs a node; bytes/s a GPU within it, and between nodes (400 Gb/s each)
FLOPS = 0.5 * 989e12  # an H100 at the MFU that is aimed at
TEXT_TOKENS = 512  # of a sample, all supervised
MB_A_TOKEN = {False: 4.48, True: 6.44}  # by whether the language model trains
ROWS_OF_LOGITS = 2048


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One row of the table; bytes in GB, times in seconds a micro-batch of one rank."""

    size: str
    stage: str
    strategy: str
    gpus: int
    samples_a_step: int
    held: float
    gathered: float
    activations: float
    total: float
    sent: float
    computing: float
    sending: float
    binds: str


@lru_cache
def sizes_of(size: str, stage: str) -> tuple[DragonflyConfig, list[Unit]]:
    """Config and units of a model that exists on the meta device only."""
    config = tiny_config(**SIZES[size])
    with torch.device("meta"):
        model = DragonflyForConditionalGeneration(config)
    freeze(model, stage_of(stage, steps=1))
    return config, sharding_units(TrainingNetwork(model))


def plan(size: str, stage: str, strategy: str, world: int, tokens: int, checkpointing: str) -> Plan:
    """Memory and times of one rank with micro-batches of about `tokens` tokens."""
    config, found = sizes_of(size, stage)
    layout, text, joint = config.layout, config.text_config, stage == "2"
    images = max(1, tokens // (layout.num_tokens + TEXT_TOKENS))
    length = layout.num_tokens + TEXT_TOKENS
    tokens = images * length
    work = Work(
        images=images, tokens=tokens, pairs=images * length * (length + 1) // 2, supervised=images * TEXT_TOKENS
    )
    flops = step_flops(config, work, Trained(vision=joint, projector=True, language=joint))
    full, crops = checkpointing == "full", layout.zoom.num_crops - (layout.zoom.num_high - layout.zoom.num_high_kept)
    kept_a_layer = 2 if full else 32
    tower = images * crops * layout.features_per_crop * config.num_vision_layers_used * config.vision_config.hidden_size
    block_mb = 2 * text.hidden_size * text.num_hidden_layers / 1e6 if full else MB_A_TOKEN[joint]
    logits = 2 * 4 * min(ROWS_OF_LOGITS, work.supervised) * text.vocab_size
    activations = tokens * block_mb * 1e6 + joint * kept_a_layer * tower + logits
    held = held_bytes(found, strategy, world)
    # The root's weights stay gathered, and two blocks are at a time, one of them with its gradient in float32.
    largest = max(unit.weights for unit in found[:-1])
    gathered = 2 * found[-1].weights + (4 + 4 * joint) * largest + 4 * found[-1].trained if strategy == "fsdp" else 0.0
    total = (held + gathered + activations) / 1e9
    ring = (world - 1) / world
    sent = ring * sum(b * (2 if kind == "all-reduce" else 1) for kind, b in payload_bytes(found, strategy).items())
    again = flops["vision"] * joint + flops["language"] if full else 0
    computing = (sum(flops.values()) + again) / FLOPS
    sending = sent / (NVLINK if world <= NODE else NETWORK)
    fits = total <= GPU_GB - RESERVED_GB
    return Plan(
        size=size,
        stage=stage,
        strategy=strategy,
        gpus=world,
        samples_a_step=images * world,
        held=held / 1e9,
        gathered=gathered / 1e9,
        activations=activations / 1e9,
        total=total,
        sent=sent / 1e9,
        computing=computing,
        sending=sending,
        binds="memory" if not fits else "network" if sending > computing else "compute",
    )


KINDS = {"_allgather_base_": "all-gather", "_reduce_scatter_base_": "reduce-scatter", "allreduce_": "all-reduce"}


def byte_counter() -> Any:
    """Adds up in `found` what collectives carry, by kind."""

    class CountBytes(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.found: dict[str, int] = {}

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kind = KINDS.get(func.__name__.split(".")[0]) if func.namespace == "c10d" else None
            if kind is not None:
                whole = {"all-gather": args[0], "reduce-scatter": args[1], "all-reduce": args[0]}[kind]
                tensors = [whole] if isinstance(whole, torch.Tensor) else whole
                self.found[kind] = self.found.get(kind, 0) + sum(t.numel() * t.element_size() for t in tensors)
            return func(*args, **(kwargs or {}))

    return CountBytes()


def measure(rank: int, port: int, strategy: str, stage_name: str, queue) -> None:
    """One rank of a real step: bytes held and bytes in collectives, beside those of the formulas."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = tiny_model().bfloat16()
    stage = stage_of(stage_name, steps=1)
    param_groups = freeze(model, stage)
    cast_weights(model, "bf16")
    model.train()
    network: nn.Module = TrainingNetwork(model, "bf16")
    expected = sharding_units(network)
    if strategy == "fsdp":
        shard(network, init_device_mesh("cpu", (2,)), policy=sharding_policy("bf16"))
        network.sharded = True
        param_groups = freeze(model, stage)  # the shards have taken the weights' place
    else:
        network = DistributedDataParallel(network, gradient_as_bucket_view=True, broadcast_buffers=False)
    optimizer = build_optimizer(param_groups, no_decay_names(model), stage)
    tokenizer = tiny_tokenizer()
    builder = SequenceBuilder(tokenizer=tokenizer, layout=model.layout, max_tokens=400)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    batch = collate([builder.build(sample) for sample in samples(2, 20)], pad_id=pad)
    with byte_counter() as counted:
        network(batch).loss.backward()
    weights = list(model.parameters())
    held = [*weights, *(p.grad for p in weights if p.grad is not None), *state_tensors(optimizer).values()]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in held]
    if rank == 0:
        measured = {"held": sum(t.numel() * t.element_size() for t in local), **counted.found}
        queue.put((measured, {"held": held_bytes(expected, strategy, 2), **payload_bytes(expected, strategy)}))
    dist.destroy_process_group()


def check() -> list[dict[str, object]]:
    """Formula and measurement of every strategy and stage on two ranks."""
    rows, context = [], multiprocessing.get_context("spawn")
    for strategy in ("ddp", "fsdp"):
        for stage in STAGES:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            queue = context.SimpleQueue()
            ranks = [context.Process(target=measure, args=(r, port, strategy, stage, queue)) for r in range(2)]
            for process in ranks:
                process.start()
            measured, expected = queue.get()
            for process in ranks:
                process.join()
            for name, value in expected.items():
                got = measured.get(name, 0)
                ratio = got / value if value else 1.0
                rows.append(
                    {
                        "strategy": strategy,
                        "stage": stage,
                        "what": name,
                        "formula": int(value),
                        "measured": got,
                        "ratio": round(ratio, 3),
                    }
                )
    return rows


def show(rows: list[dict]) -> None:
    """A table of rows with the same keys."""
    table = Table()
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(
            *(f"{v:,.2f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v for v in row.values())
        )
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=("v1", "v2"), default=["v1", "v2"])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--strategies", nargs="+", choices=("ddp", "fsdp"), default=["ddp", "fsdp"])
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 32, 128, 1024])
    parser.add_argument("--tokens", type=int, default=8192, help="of a micro-batch, about")
    parser.add_argument("--activation-checkpointing", choices=("none", "full"), default="none")
    parser.add_argument("--check", action="store_true", help="two real ranks against the formulas")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows = (
        check()
        if arguments.check
        else [
            asdict(plan(size, stage, strategy, gpus, arguments.tokens, arguments.activation_checkpointing))
            for size in arguments.sizes
            for stage in arguments.stages
            for strategy in arguments.strategies
            for gpus in arguments.gpus
        ]
    )
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)


if __name__ == "__main__":
    main()
