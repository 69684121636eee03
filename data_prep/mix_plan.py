"""`mix-plan`: what a mix comes to: epochs of each source, and its share of samples, tokens and images.

Folders that are not there yet keep their share of the samples; tokens and images are those of the others. Where none is
there, a sample is taken to be an image and `--text` tokens; sizes of known parts come with the package.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from dragonfly_lit.app.data import configure, train_mix
from dragonfly_lit.app.planning import cost_of
from dragonfly_lit.app.reading import reading_of
from dragonfly_lit.app.recipe import recipe_of
from dragonfly_lit.data.making import how_to_make
from dragonfly_lit.data.mix import shares, specs_of
from dragonfly_lit.data.packing import BatchShape
from dragonfly_lit.data.plan import Means, SourcePlan, means_of, packing_note, plan_mix, samples_in_row
from dragonfly_lit.data.remote import is_remote
from dragonfly_lit.data.table_files import table_files
from dragonfly_lit.io.commands import as_typed
from dragonfly_lit.io.console import standard_output

from .arguments import mix_plan_parser, overrides_of


def plan_table(plans: Sequence[SourcePlan]) -> Table:
    """A line a source and one for all of them; shares in per cent, epochs as passes over a source."""
    tokens = sum(plan.draws * plan.tokens_per_sample for plan in plans)
    images = sum(plan.draws * plan.images_per_sample for plan in plans)
    shown = Table("source", box=None)
    for name in ("samples", "draws", "epochs", "% samples", "% tokens", "% images", "tokens a sample"):
        shown.add_column(name, justify="right")
    for plan in plans:
        if not plan.samples:
            shown.add_row(plan.name, "not there", f"{plan.draws:,.0f}", "?", f"{100 * plan.share:.1f}", *("?",) * 3)
            continue
        own_tokens, own_images = plan.draws * plan.tokens_per_sample, plan.draws * plan.images_per_sample
        shown.add_row(
            plan.name,
            f"{plan.samples:,}",
            f"{plan.draws:,.0f}",
            f"{plan.epochs:.3g}",
            f"{100 * plan.share:.1f}",
            f"{100 * own_tokens / tokens:.1f}",
            f"{100 * own_images / images:.1f}" if images else "-",
            f"{plan.tokens_per_sample:,.0f}",
        )
    samples = f"{sum(plan.samples for plan in plans):,}"
    draws, known = (sum(plan.draws for plan in plans if plan.samples >= least) for least in (0, 1))
    shares_of_all = ("100.0", *("100.0" if known else "?",) * 2, f"{tokens / known:,.0f}" if known else "?")
    shown.add_row("all", samples, f"{draws:,.0f}", "", *shares_of_all, style="bold")
    return shown


def is_there(path: str) -> bool:
    """Whether a source may be opened: a folder or tables that exist, or a URL, which is not asked."""
    return is_remote(path) or Path(path).is_dir() or bool(table_files(path))


def sources_there(mix: Mapping[str, Any]) -> dict[str, Any]:
    """A mix without the sources, and the mixes inside it, of which no folder exists."""
    found = {}
    for name, node in mix["sources"].items():
        kept = sources_there(node) if "sources" in node else node
        if kept["sources"] if "sources" in kept else not kept.get("path") or is_there(str(kept["path"])):
            found[name] = kept
    return {**mix, "sources": found}


def with_missing(plans: Sequence[SourcePlan], mix: Mapping[str, Any], num_draws: float) -> list[SourcePlan]:
    """The plans of the sources of `mix` that are there, with their shares of the whole mix, and those of the others."""
    known = {plan.name: plan for plan in plans}
    names = [spec.name for spec in specs_of(mix)]
    share = shares(mix, {name: known[name].samples if name in known else 0 for name in names})
    blank = SourcePlan(
        name="", samples=0, share=0.0, draws=0.0, epochs=0.0, tokens_per_sample=0.0, images_per_sample=0.0
    )
    found = []
    for name in names:
        plan, draws = known.get(name, blank), num_draws * share[name]
        epochs = draws / plan.samples if plan.samples else 0.0
        found.append(replace(plan, name=name, share=share[name], draws=draws, epochs=epochs))
    return found


def main(argv: list[str]) -> int:
    """Print the plan of data.train for a whole run of the stage."""
    given = mix_plan_parser().parse_args(argv)

    config, builder = configure(overrides_of(given))
    data = config["data"]
    absent = [spec.path for spec in specs_of(data["train"]) if spec.path and not is_there(spec.path)]
    there = sources_there(data["train"])
    mix = train_mix(config, there) if there["sources"] else None
    known = plan_mix(mix, builder, 1.0) if mix is not None else []
    mean = means_of(known) if known else Means(builder.layout.num_tokens + float(given.text), 1.0)
    if absent:
        then = "without them the plan counts the others' tokens and images only"
        if mix is None:
            then = f"until then a sample is taken to be an image and {given.text} tokens of text"
        made = f"Make the first with: {how_to_make(absent[0])}"
        print(as_typed(f"no such folder: {', '.join(absent)}; {then}. {made}"), file=sys.stderr)
    recipe_size = recipe_of(config).get("batch_size")
    shape = BatchShape.of(data["batch"], size=recipe_size, max_tokens=builder.max_tokens, cost=cost_of(config))
    reading = reading_of(config, samples_in_row(shape, builder, mean), mean.tokens)
    draws = float(given.samples or reading.steps * reading.samples)
    plans = with_missing(known, data["train"], draws)
    console = standard_output(markup=False)
    console.print(plan_table(plans))
    whose = " in the sources that are there" if absent and mix is not None else ""
    counted = sum(plan.draws * plan.tokens_per_sample for plan in plans) if mix is not None else draws * mean.tokens
    print(f"{draws:,.0f} samples: {counted:,.0f} tokens{whose}, {builder.layout.num_tokens} of them for each image.")
    print(reading.told)
    if known and shape.mode == "packed" and recipe_size is not None:
        print(packing_note(shape, builder, recipe_size, mean))
    return 0
