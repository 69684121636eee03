"""`mix-plan`: what a mix comes to: epochs of each source, and its share of samples, tokens and images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from data_prep.configured import configure, train_mix
from dragonfly_lit.data.packing import BatchShape
from dragonfly_lit.data.plan import SourcePlan, plan_mix, samples_per_micro_batch


def plan_table(plans: Sequence[SourcePlan]) -> Table:
    """A line a source and one for all of them; shares in per cent, epochs as passes over a source."""
    tokens = sum(plan.draws * plan.tokens_per_sample for plan in plans)
    images = sum(plan.draws * plan.images_per_sample for plan in plans)
    shown = Table("source", box=None)
    for name in ("samples", "draws", "epochs", "% samples", "% tokens", "% images", "tokens a sample"):
        shown.add_column(name, justify="right")
    for plan in plans:
        own_tokens, own_images = plan.draws * plan.tokens_per_sample, plan.draws * plan.images_per_sample
        shown.add_row(
            plan.name, f"{plan.samples:,}", f"{plan.draws:,.0f}", f"{plan.epochs:.3g}", f"{100 * plan.share:.1f}",
            f"{100 * own_tokens / tokens:.1f}", f"{100 * own_images / images:.1f}" if images else "-",
            f"{plan.tokens_per_sample:,.0f}",
        )  # fmt: skip
    draws = sum(plan.draws for plan in plans)
    samples = f"{sum(plan.samples for plan in plans):,}"
    shown.add_row("all", samples, f"{draws:,.0f}", "", *("100.0",) * 3, f"{tokens / draws:,.0f}", style="bold")
    return shown


def main(argv: list[str]) -> int:
    """Print the plan of data.train for a whole run of the stage."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep mix-plan", description=__doc__,
        epilog="example: python -m data_prep mix-plan data=general_stage2 stage=2 model=dragonfly_v2 trainer=gpu8",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration as train.py takes it")
    parser.add_argument("--samples", type=int, help="draws (default: as many as the stage's steps take)")
    given = parser.parse_args(argv)

    config, builder = configure(given.overrides)
    mix = train_mix(config)
    data, stage, trainer = config["data"], config["stage"], config["trainer"]
    size = samples_per_micro_batch(mix, BatchShape(**data["batch"]), builder)
    micro_batches = stage["steps"] * stage["accumulate"] * trainer["devices"] * trainer["num_nodes"]
    draws = given.samples or micro_batches * size
    plans = plan_mix(mix, builder, draws)
    Console().print(plan_table(plans))
    tokens = sum(plan.draws * plan.tokens_per_sample for plan in plans)
    a_step = f"{micro_batches / stage['steps']:.0f} x {size:.1f} samples"
    why = "" if given.samples else f", {stage['steps']:,} steps of {a_step}"
    print(f"{draws:,.0f} samples{why}: {tokens:,.0f} tokens, {builder.layout.num_tokens} of them for each image.")
    return 0
