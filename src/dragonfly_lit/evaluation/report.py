"""Scored benchmarks to `results.json`, `results.md` beside published rows, and the page `report.html`."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from dragonfly_lit.evaluation import html
from dragonfly_lit.evaluation.intervals import LEVEL, SUMMARIES
from dragonfly_lit.evaluation.lengths import LENGTHS
from dragonfly_lit.evaluation.markdown import plain
from dragonfly_lit.evaluation.scores import Scored
from dragonfly_lit.evaluation.settings import Settings
from dragonfly_lit.io import atomic

SCHEMA_VERSION = 1
PACKAGES = ("dragonfly_lit", "torch", "transformers", "torchmetrics", "pycocoevalcap", "nltk")
"""Whose versions may change a score."""


def results(
    scored: Sequence[Scored], *, settings: Settings, model: Mapping[str, Any], times: Mapping[str, Any]
) -> dict[str, Any]:
    """What `results.json` holds: the same for any number of ranks, but for `times` and the date of `made`."""
    found = {
        "schema": SCHEMA_VERSION,
        "model": dict(model),
        "made": dict(settings.made),
        "prompts": settings.prompts.name,
        "generation": {
            "temperature": settings.temperature,
            "seed": settings.seed,
            "draws": settings.draws,
            "limit": _limit(scored, settings),
            "max_new_tokens": settings.max_new_tokens,
        },
        "bootstrap": {
            "level": LEVEL,
            "unit": "image",
            "seed": settings.seed,
            "resamples": settings.resamples,
            "resamples_of_summaries": min(SUMMARIES, settings.resamples),
            "where_resamples_agree": "wilson",
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "benchmarks": {one.entry["benchmark"]: one.entry for one in scored},
        "times": dict(times),
    }
    return json.loads(json.dumps(found, allow_nan=False))  # as it will be read back: lists, no tuples


def _limit(scored: Sequence[Scored], settings: Settings) -> int | None:
    """The limit of every benchmark; that of the settings, which is None, where they have different ones."""
    limits = {one.entry["limit"] for one in scored}
    return limits.pop() if len(limits) == 1 else settings.limit


def write(out: Path, results: Mapping[str, Any], scored: Sequence[Scored], settings: Settings) -> None:
    """Writes the three files into `out`."""
    atomic.write(out / "results.json", json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    atomic.write(out / "results.md", markdown(results))
    atomic.write(out / "report.html", html.page(results, scored, num_examples=settings.gallery))


def markdown(results: Mapping[str, Any]) -> str:
    """A table of headline scores beside the published rows, then every score of every benchmark."""
    entries: dict[str, Any] = results["benchmarks"]
    models = list(dict.fromkeys(row["model"] for e in entries.values() for row in headline_rows(e)))
    interval = f"{results['bootstrap']['level']:.0%} interval"
    head = ["benchmark", "metric", "questions", "prompt", "this model", interval, *models]
    lines = [_row(head), _rule(len(head))]
    for entry in entries.values():
        published = {row["model"]: f"{row['value']:g}" for row in headline_rows(entry)}
        mine = headline_text(entry)
        cells = [entry["benchmark"], entry["headline"], num_questions(entry), entry["prompt"]["set"], mine]
        cells.append(interval_text(entry, entry["headline"]))
        lines.append(_row([*cells, *(published.get(model, "") for model in models)]))
    made = [f"- {plain(name)}: {plain(str(value))}" for name, value in results.get("made", {}).items()]
    parts = ["# Results", *(["\n".join(made)] if made else []), "\n".join(lines)]
    notes = [
        f"- {plain(entry['benchmark'])}: {plain(entry[kind])}"
        for kind in ("note", "waiting")
        for entry in entries.values()
        if entry.get(kind)
    ]
    parts += ["\n".join(notes)] if notes else []
    parts += [_details(entry) for entry in entries.values()]
    return "\n\n".join(parts) + "\n"


def table(results: Mapping[str, Any]) -> Table:
    """The headline scores, for the terminal."""
    shape = Table(box=SIMPLE)
    for name in ("benchmark", "metric", "prompt"):
        shape.add_column(name)
    for name in ("questions", "score", f"{results['bootstrap']['level']:.0%} interval"):
        shape.add_column(name, justify="right")
    for entry in results["benchmarks"].values():
        score = headline_text(entry)
        names = escape(entry["benchmark"]), escape(entry["headline"]), escape(entry["prompt"]["set"])
        shape.add_row(*names, num_questions(entry), score, interval_text(entry, entry["headline"]))
    return shape


def num_questions(entry: Mapping[str, Any]) -> str:
    """How many questions a score is of, and whether a limit left some out."""
    return f"{entry['num_questions']:,}{', limited' if entry.get('limited') else ''}"


def headline_rows(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The published rows shown beside the headline."""
    return [row for row in entry["published"] if row["metric"] == entry["headline"]]


def headline_text(entry: Mapping[str, Any]) -> str:
    """The headline score, or whom it is waited for of."""
    return shown(entry, entry["headline"]) if entry["scores"] else f"waits for {entry.get('waits_for', 'a judge')}"


def shown(entry: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """A score as papers print it: counts whole, MME's points as they are, all others times the scale."""
    value = entry["scores"].get(name)
    if value is None:
        return "-"
    if name.rpartition("/")[0].startswith("num_") or name.startswith("num_"):
        return f"{value:.0f}"
    return f"{value * entry['scale']:.{digits}f}"


def interval_text(entry: Mapping[str, Any], name: str) -> str:
    """The interval of a score, scaled like it."""
    bounds = entry["intervals"].get(name)
    if bounds is None:
        return ""
    text = "{:.2f} to {:.2f}".format(*(bound * entry["scale"] for bound in bounds))
    return f"{text} (Wilson)" if name in entry.get("wilson", ()) else text


def asked_text(entry: Mapping[str, Any]) -> str:
    """A sentence about questions that were asked several times; nothing where each was asked once."""
    asked, said = entry.get("asked") or {}, ""
    draws = asked.get("draws", 1)
    if asked.get("circular"):
        said += " Circular: each question was asked in every rotation of its choices, and is right only when all are."
    if draws > 1:
        said += f" {draws} drawn answers a question; scores are their means."
    if asked.get("texts"):
        said += f" The answer is the choice whose text is likeliest ({LENGTHS[asked['texts']]})."
    elif asked.get("scoring") == "loglikelihood":
        said += " The answer is the choice whose letter is likeliest."
    if asked.get("shots"):
        said += f" {asked['shots']} examples in front of each question, drawn with seed {asked['shots_seed']}."
    if asked.get("perturb"):
        said += f" Images under {asked['perturb']}."
    return said


def _details(entry: Mapping[str, Any]) -> str:
    title = f"## {plain(entry['benchmark'])} ({plain(entry['split'])}, {num_questions(entry)} questions)"
    if not entry["scores"]:
        return title
    unparsed = entry["unparsed"]
    facts = (
        f"Prompt set {plain(entry['prompt']['set'])}, parser {plain(entry['parser'])}; no answer found in "
        f"{unparsed['official']} outputs (leniently {unparsed['lenient']}), {entry['num_empty']} outputs empty."
        f"{asked_text(entry)}"
    )
    lines = [_row(["score", "value", "interval"]), _rule(3)]
    lines += [_row([name, shown(entry, name), interval_text(entry, name)]) for name in entry["scores"]]
    sources = dict.fromkeys(
        f"- {row['model']}, {row['metric']} {row['value']:g}: {row['source']}{'; ' if row['note'] else ''}{row['note']}"
        for row in entry["published"]
    )
    published = ["Published:\n\n" + "\n".join(sources)] if sources else []
    return "\n\n".join([title, facts, "\n".join(lines), *_sizes(entry), *published])


SIZES = {
    "image_size": "largest image",
    "object_size": "smallest asked object, by side of the image",
    "object_crop": "crops of the asked objects",
}
"""Ways of grouping questions by what resolution has to do with, in the words of a table."""


def _sizes(entry: Mapping[str, Any]) -> list[str]:
    """Tables of the scores by sizes, and a sentence on how often the crop of an asked object was selected."""
    parts = []
    for kind, words in SIZES.items():
        if broken := entry["groups"].get(kind):
            rows = [
                _row([name, f"{group['num_questions']:,}", f"{100 * group['score']:.2f}"])
                for name, group in broken.items()
            ]
            parts.append("\n".join([_row([words, "questions", "mean score"]), _rule(3), *rows]))
    if selection := entry.get("selection"):
        low, high = (100 * bound for bound in selection["interval"])
        parts.append(
            f"Selection recall: the crops of {100 * selection['recall']:.2f}% ({low:.2f} to {high:.2f}) of the asked "
            f"objects were selected in {selection['num_questions']:,} questions; at random "
            f"{100 * selection['random']:.2f}% would be."
        )
    return parts


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(plain, cells)) + " |"


def _rule(num: int) -> str:
    return "|" + " --- |" * num


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
