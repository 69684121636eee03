"""Where the processor's time of a training step goes, by kind of kernel, and the least it could take on this core.

Steps are those of benchmarks/step.py. Each is profiled once, after one to warm up; the shares that torch's profiler
gives to its operators are of the processor seconds of that step, which a busy machine changes least. The floor is
arithmetic: the matrix products of our step, and of attention the pairs that a token sees, at the best speed that this
core reaches in products of the step's own shapes. Nothing else is in it: no softmax, norm, activation, copy, optimizer.

    python benchmarks/step_floor.py
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import Any

from step import OURS, RELEASED, parser, samples, ways_of

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import torch
    from rich.console import Console
    from rich.table import Table
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "mkldnn_convolution", "convolution_backward")
ATTENTION = ("_flash_attention_for_cpu", "_flash_attention_for_cpu_backward")
COPIES = ("copy_", "cat", "clone", "index", "index_select", "index_copy_", "_index_put_impl_", "fill_", "scatter_add_")
KINDS = ("matrix products", "attention forward", "attention backward", "copies", "optimizer", "all else")
BACKWARD_PRODUCTS = 5 / 4
"""Of attention: the scores are computed again, which the count of FLOPs leaves out as no part of the model."""


def kind_of(operator: str) -> str:
    """To which row of the table an operator's own time belongs."""
    name = operator.partition("::")[2]
    if name.endswith(ATTENTION[1]):
        return "attention backward"
    if name.endswith(ATTENTION[0]):
        return "attention forward"
    if name in PRODUCTS:
        return "matrix products"
    if name in COPIES:
        return "copies"
    return "optimizer" if "adam" in name or name.startswith("_foreach") else "all else"


def seconds_by_kind(way: Any, batch: Any) -> dict[str, float]:
    """Processor seconds of one step by kind of kernel."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        start = time.process_time()
        way.step(batch)
        taken = time.process_time() - start
    own: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        own[kind_of(event.key)] += event.self_cpu_time_total
    return {kind: own[kind] / sum(own.values()) * taken for kind in KINDS}


def products_of(way: Any, batch: Any) -> dict[str, float]:
    """FLOPs of one step: of matrix products, and of attention those of the pairs that causal order lets see."""
    with FlopCounterMode(display=False) as counter:
        way.step(batch)
    found: dict[str, float] = defaultdict(float)
    for operator, flops in counter.get_flop_counts()["Global"].items():
        name = str(operator)
        if "packed_attention_backward" in name:
            found["attention"] += flops / 2 * BACKWARD_PRODUCTS
        elif "attention" in name:
            found["attention"] += flops / 2
        else:
            found["products"] += flops
    return found


def speed(tokens: int, width: int) -> float:
    """FLOPs a second of this core at its best, over the products that a language model of this width takes."""
    best = 0.0
    for inner, outer in ((width, width), (width, 7 * width // 2), (7 * width // 2, width)):
        states, weight = torch.randn(tokens, inner), torch.randn(outer, inner)
        for _ in range(8):
            start = time.process_time()
            torch.nn.functional.linear(states, weight)
            best = max(best, 2 * tokens * inner * outer / (time.process_time() - start))
    return best


def show(stage: str, found: dict[str, dict[str, float]], floor: dict[str, float]) -> None:
    """One stage as a table."""
    table = Table(title=f"stage {stage}: processor seconds of a step by kind of kernel")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for kind in (*KINDS, "step"):
        table.add_row(kind, *(f"{parts[kind]:.3f}" for parts in found.values()))
    console = Console(width=120)
    console.print(table)
    told = f"{floor['products'] / 1e9:.1f} GFLOP of products and {floor['attention'] / 1e9:.1f} of attention"
    console.print(f"Our step has {told}; at {floor['speed'] / 1e9:.0f} GFLOP/s that is {floor['seconds']:.2f} s.")
    if RELEASED in found:
        ceiling = found[RELEASED]["step"] / floor["seconds"]
        console.print(f"The released step takes {ceiling:.2f} times that, which is the most that could be gained.")


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    results = {}
    for stage in args.stages:
        made, found, floor = samples(args), {}, {}
        for name, way in ways_of(args, stage).items():
            batch: Any = way.prepare(made)
            way.step(batch)
            found[name] = seconds_by_kind(way, batch)
            found[name]["step"] = sum(found[name].values())
            if name == OURS:
                floor = products_of(way, batch)
                floor["speed"] = speed(batch.input_ids.numel(), args.width)
                floor["seconds"] = (floor["products"] + floor["attention"]) / floor["speed"]
        show(stage, found, floor)
        results[stage] = {"ways": found, "floor": floor}
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
