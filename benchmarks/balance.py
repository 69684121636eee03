"""How long ranks wait for the slowest one: rows filled by tokens against rows filled by FLOPs, simulated.

    python benchmarks/balance.py                 # v1 and v2, both stages, 32 ranks, rows of 8k and 32k tokens
    python benchmarks/balance.py --ranks 128 --steps 100 --tokens 16384

Lengths are like those of LLaVA's instructions: four fifths with an image and a few short or long answers, one fifth
text alone, long conversations among them. Each rank fills its rows from its own stream by the rule that training uses
(`data.packing.BatchShape`); a row takes as long as its FLOPs, forward and backward, a step as long as its slowest row.
"""

from __future__ import annotations

import argparse
import random
from itertools import product
from statistics import fmean

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    from rich.console import Console
    from rich.table import Table

    from dragonfly_lit.app.build import compose
    from dragonfly_lit.app.sizes import frozen_model, model_config
    from dragonfly_lit.app.stage import build_stage
    from dragonfly_lit.data.packing import BatchShape, Cost, Planned
    from dragonfly_lit.models.flops import relative_costs


def samples(draw: random.Random, image_tokens: int, image_crops: int, longest: int):
    """Lengths of samples without end, images among them."""
    while True:
        text = round(draw.lognormvariate(5.2, 0.8))
        if draw.random() < 0.2:
            yield Planned(num_tokens=min(longest, 3 * text), num_crops=0)
        else:
            yield Planned(num_tokens=min(longest, image_tokens + text), num_crops=image_crops)


def rows(shape: BatchShape, stream, count: int) -> list[list[Planned]]:
    """So many rows of one rank."""
    waiting, found = [], []
    for _ in range(count):
        while len(waiting) < shape.buffer:
            waiting.append(next(stream))
        chosen = set(shape.choose(waiting))
        found.append([sample for place, sample in enumerate(waiting) if place in chosen])
        waiting = [sample for place, sample in enumerate(waiting) if place not in chosen]
    return found


def simulate(model: str, stage: str, balance: str, tokens: int, given: argparse.Namespace) -> dict[str, float]:
    """Share of the ranks' time that is waiting, the longest row, and tokens in the time of one token of text."""
    ranks, steps = given.ranks, given.steps
    config = compose([f"model={model}", f"stage={stage}", f"data=general_stage{stage}"])
    sizes = model_config(config)
    crop, pair = relative_costs(sizes, frozen_model(sizes, build_stage(config["stage"]))[1])
    cost, layout = Cost(crop=crop, pair=pair), sizes.layout
    shape = BatchShape(mode="packed", max_tokens=tokens, buffer=given.buffer, balance=balance, cost=cost)
    longest = config["model"]["max_tokens"]
    dealt = [
        rows(shape, samples(random.Random(rank), layout.num_tokens, layout.zoom.num_crops, longest), steps)
        for rank in range(ranks)
    ]
    times = [[sum(cost.of(sample) for sample in dealt[rank][step]) for rank in range(ranks)] for step in range(steps)]
    trained = sum(sample.num_tokens for rank in dealt for row in rank for sample in row)
    slowest = sum(max(step) for step in times)
    return {
        "waiting": 1 - sum(fmean(step) for step in times) / slowest,
        "largest row": max(sum(s.num_tokens for s in row) for rank in dealt for row in rank),
        "tokens a time": trained / slowest / ranks,
        "crop": crop,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768], help="of a row at most")
    parser.add_argument("--buffer", type=int, default=64, help="samples that wait to be chosen from")
    given = parser.parse_args()
    columns = ("model", "stage", "row", "balance", "waiting", "longest row", "tokens in the time of one", "a crop")
    table = Table(*columns)
    for model, stage, tokens, balance in product(
        ("dragonfly_v1", "dragonfly_v2"), ("1", "2"), given.tokens, ("tokens", "flops")
    ):
        found = simulate(model, stage, balance, tokens, given)
        table.add_row(
            *(model, stage, f"{tokens:,}", balance, f"{100 * found['waiting']:.1f}%", f"{found['largest row']:,.0f}"),
            *(f"{found['tokens a time']:.3f}", f"{found['crop']:.1f} tokens"),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
