"""Scores against the strength of a perturbation: `curve.json`, a table, and a picture where matplotlib is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.curves import BESIDE, save
from dragonfly_lit.evaluation.markdown import plain
from dragonfly_lit.evaluation.report import interval_text, num_questions, shown
from dragonfly_lit.io import atomic

UNITS = {"jpeg": "quality", "downscale": "sides divided by", "crop": "share of the sides cut off"}


def curve(kind: str, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The headline of each benchmark at each strength, with its interval.

    Args:
        kind: of the perturbation.
        results: of an evaluation by strength, `none` first.
    """
    first = next(iter(results.values()))["benchmarks"]
    return {
        "kind": kind,
        "strengths": list(results),
        "benchmarks": {
            name: {
                "headline": entry["headline"],
                "scale": entry["scale"],
                "questions": num_questions(entry),
                "scores": [_at(each, name, "scores") for each in results.values()],
                "intervals": [_at(each, name, "intervals") for each in results.values()],
            }
            for name, entry in first.items()
        },
    }


def _at(results: Mapping[str, Any], name: str, what: str) -> Any:
    entry = results["benchmarks"][name]
    return entry[what].get(entry["headline"])


def write(out: Path, kind: str, results: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Writes the curve into `out`; the files."""
    found = curve(kind, results)
    atomic.write(out / "curve.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    atomic.write(out / "curve.md", markdown(kind, results))
    return [out / "curve.json", out / "curve.md", *_picture(out, found)]


def markdown(kind: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a benchmark, a column a strength."""
    names = list(next(iter(results.values()))["benchmarks"])
    rows: list[Sequence[str]] = [
        ("benchmark", "metric", "questions", *results),
        ("---", "---", "---:", *["---:"] * len(results)),
    ]
    for name in names:
        entries = [each["benchmarks"][name] for each in results.values()]
        cells = [f"{shown(e, e['headline'])} ({interval_text(e, e['headline'])})" for e in entries]
        rows.append([plain(name), plain(entries[0]["headline"]), num_questions(entries[0]), *map(plain, cells)])
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return f"# Scores under {kind}\n\n" + "\n".join(lines) + "\n"


def _picture(out: Path, found: Mapping[str, Any]) -> list[Path]:
    try:
        import matplotlib
    except ImportError:
        return []  # the table says the same; the extra `study` brings it
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(found["strengths"]))
    for name, entry in found["benchmarks"].items():
        known = [place for place in places if entry["scores"][place] is not None]
        scores = [entry["scale"] * entry["scores"][place] for place in known]
        bounds = [entry["intervals"][place] or [entry["scores"][place]] * 2 for place in known]
        below = [max(0.0, score - entry["scale"] * low) for score, (low, _) in zip(scores, bounds, strict=True)]
        above = [max(0.0, entry["scale"] * high - score) for score, (_, high) in zip(scores, bounds, strict=True)]
        axes.errorbar(known, scores, yerr=[below, above], marker="o", capsize=4, label=f"{name}, {entry['headline']}")
    axes.set_title(f"Scores under {found['kind']}", loc="left", fontsize=12, fontweight="bold")
    axes.set_xticks(list(places), found["strengths"])
    axes.set_xlabel(UNITS[found["kind"]])
    axes.set_ylabel("score")
    axes.grid(axis="y", color=BESIDE)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return save(figure, out / "curve", _seen(found))


def _seen(found: Mapping[str, Any]) -> str:
    """The curves in words: each from its first score to its last."""
    told = []
    for name, entry in found["benchmarks"].items():
        pairs = zip(found["strengths"], entry["scores"], strict=True)
        known = [f"{entry['scale'] * score:.1f} at {strength}" for strength, score in pairs if score is not None]
        if known:
            told.append(f"{name}, {entry['headline']}, " + " to ".join(dict.fromkeys((known[0], known[-1]))))
    return f"Scores under {found['kind']}: {'; '.join(told)}."
