"""Runs side by side: headline scores beside published rows, and paired intervals of their differences.

`python -m dragonfly_lit compare runs/a/evaluation/NAME runs/b/evaluation/NAME`. A difference is that of the mean score
of a question over the questions that both runs answered; images are drawn with replacement, the same for both runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation import compare_page
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.intervals import DIGITS, LEVEL, SAME, Resamples, interval, wilson
from dragonfly_lit.evaluation.report import headline_rows, interval_text, num_questions, shown
from dragonfly_lit.io.console import standard_output
from dragonfly_lit.io.parsers import compare_parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = compare_parser().parse_args(argv)
    compared = compare(args.results, names=args.names, resamples=args.resamples, seed=args.seed)
    if args.json is not None:
        args.json.write_text(json.dumps(compared, indent=2, ensure_ascii=False) + "\n")
    if args.html is not None:
        args.html.write_text(_page(args.results, compared), encoding="utf-8")
    console = standard_output()
    console.print(scores_table(compared))
    if compared["differences"]:
        console.print(differences_table(compared))
    for note in compared["notes"]:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)


def _page(paths: Sequence[Path], compared: dict[str, Any]) -> str:
    """The page of two runs: their answers to the same questions beside each other."""
    if len(paths) != 2:
        raise ValueError(f"--html shows two runs side by side, and {len(paths)} are given. Give two.")
    files = [_results_of(path) for path in paths]
    one, other = (_read(file)["benchmarks"] for file in files)
    pairs = []
    for task in one:
        if task in other and one[task]["scores"] and other[task]["scores"]:
            answers = (_answers(file.parent, run[task]) for file, run in zip(files, (one, other), strict=True))
            pairs += compare_page.pairs_of(task, *answers)
    return compare_page.page(compared, pairs, [file.parent for file in files])


def compare(
    paths: Sequence[Path], *, names: Sequence[str] | None = None, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The benchmarks of several runs, and the difference of each later run to the first.

    Args:
        paths: of `results.json` files or their folders.
        names: of the runs.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: a file is not a results file, names and runs differ in number, or the runs share no benchmark.
    """
    files = [_results_of(path) for path in paths]
    labels = list(names) if names else _labels(files)
    if len(labels) != len(files) or len(set(labels)) != len(labels):
        raise ValueError(f"--names {' '.join(labels)}: give {len(files)} different names, one a run.")
    runs = {label: _read(file) for label, file in zip(labels, files, strict=True)}
    folders = dict(zip(labels, (file.parent for file in files), strict=True))
    tasks = list(dict.fromkeys(task for run in runs.values() for task in run["benchmarks"]))
    scores, differences, notes = [], [], []
    for task in tasks:
        entries = {label: run["benchmarks"][task] for label, run in runs.items() if task in run["benchmarks"]}
        scores.append(_scores(task, entries))
        notes += _notes(task, entries)
        scored = [label for label, entry in entries.items() if entry["scores"]]
        for other in scored[1:]:
            first, second = (_answers(folders[label], entries[label]) for label in (scored[0], other))
            found = difference(first, second, resamples=resamples, seed=seed)
            if found is None:
                notes.append(f"{task}: {scored[0]} and {other} share no question; no difference is given.")
            else:
                differences.append({"benchmark": task, "from": scored[0], "to": other, **found})
    if len(runs) > 1 and not any(len(row["scores"]) > 1 for row in scores):
        raise ValueError(f"the runs {', '.join(labels)} have no benchmark in common.")
    return {"runs": labels, "level": LEVEL, "scores": scores, "differences": differences, "notes": notes}


def difference(
    first: Sequence[Answer], second: Sequence[Answer], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any] | None:
    """Mean mark of the second minus that of the first over shared ids, with its interval; None without a shared id."""
    marks = {answer.id: answer for answer in first if answer.score is not None}
    pairs = [(marks[a.id], a) for a in second if a.id in marks and a.score is not None]
    if not pairs:
        return None
    changes = np.array([(b.score or 0.0) - (a.score or 0.0) for a, b in pairs])
    draws = Resamples([tuple(a.images) or a.id for a, _ in pairs], num=resamples, seed=seed)
    return {
        "num_shared": len(pairs),
        "difference": math.fsum(changes) / len(changes),
        "interval": _interval(changes, draws),
        "num_better": int((changes > 0).sum()),
        "num_worse": int((changes < 0).sum()),
    }


def _interval(changes: np.ndarray, draws: Resamples) -> list[float] | None:
    """The bootstrap's; where all resamples agree Wilson's, or Newcombe's of the shares that rose and that fell."""
    if not np.ptp(changes):
        low, high = wilson(abs(float(changes[0])), len(changes))
        return [-high, high] if changes[0] == 0 else [low, high] if changes[0] > 0 else [-high, -low]
    estimates = draws.means(changes)
    if np.ptp(estimates) > SAME:
        return interval(estimates)
    num, rose, fell = len(changes), float(changes.clip(min=0).mean()), float(-changes.clip(max=0).mean())
    (low_rose, high_rose), (low_fell, high_fell) = wilson(rose, num), wilson(fell, num)
    below, above = math.hypot(rose - low_rose, high_fell - fell), math.hypot(high_rose - rose, fell - low_fell)
    return [round(rose - fell - below, DIGITS), round(rose - fell + above, DIGITS)]


def scores_table(compared: dict[str, Any]) -> Table:
    """Headline scores: a column a run, then the published rows."""
    published = list(dict.fromkeys(model for row in compared["scores"] for model in row["published"]))
    table = Table(box=SIMPLE, title="Scores", title_justify="left")
    table.add_column("benchmark")
    table.add_column("metric")
    for label in [*compared["runs"], *published]:
        table.add_column(escape(label), justify="right")
    for row in compared["scores"]:
        mine = ["\n".join(filter(None, row["scores"].get(label, ("",)))) for label in compared["runs"]]
        cells = [row["benchmark"], row["metric"], *mine, *(row["published"].get(model, "") for model in published)]
        table.add_row(*map(escape, cells))
    return table


def differences_table(compared: dict[str, Any]) -> Table:
    """Paired differences of the mean score of a question, in percent, also where the headline is in points."""
    table = Table(box=SIMPLE, title="Paired differences of the mean score of a question", title_justify="left")
    for name in ("benchmark", "run", "against"):
        table.add_column(name)
    for name in ("difference", f"{compared['level']:.0%} interval", "better", "worse", "shared"):
        table.add_column(name, justify="right")
    for row in compared["differences"]:
        low, high = (100 * bound for bound in row["interval"])
        clear = "" if low <= 0 <= high else " *"
        table.add_row(
            escape(row["benchmark"]),
            escape(row["to"]),
            escape(row["from"]),
            f"{100 * row['difference']:+.2f}{clear}",
            f"{low:+.2f} to {high:+.2f}",
            *(f"{row[name]:,}" for name in ("num_better", "num_worse", "num_shared")),
        )
    table.caption = "* the interval leaves out zero"
    return table


def _scores(task: str, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    entry = next(iter(entries.values()))
    name = entry["headline"]
    return {
        "benchmark": task,
        "metric": name,
        "scores": {
            label: [shown(e, name), interval_text(e, name), f"of {num_questions(e)}" if e.get("limited") else ""]
            for label, e in entries.items()
        },
        "published": {row["model"]: f"{row['value']:g}" for row in headline_rows(entry)},
    }


def _notes(task: str, entries: dict[str, dict[str, Any]]) -> list[str]:
    notes = []
    for what, value_of in (
        ("splits", lambda e: e["split"]),
        ("prompts", lambda e: json.dumps(e["prompt"])),
        ("parsers", lambda e: e["parser"]),
        ("questions, images or answers", lambda e: e["data"]),
    ):
        if len({value_of(entry) for entry in entries.values()}) > 1:
            notes.append(f"{task}: the runs have different {what}.")
    return notes


def _labels(files: Sequence[Path]) -> list[str]:
    """The parts of the paths in which they differ."""
    parts = [file.parent.parts for file in files]
    while len(files) > 1 and all(part and part[0] == parts[0][0] for part in parts):
        parts = [part[1:] for part in parts]
    while len(files) > 1 and all(part and part[-1] == parts[0][-1] for part in parts):
        parts = [part[:-1] for part in parts]
    short = [str(Path(*part)) if part else "." for part in parts]
    return short if len(set(short)) == len(short) else [f"{name} ({i})" for i, name in enumerate(short, 1)]


def _results_of(path: Path) -> Path:
    """The results file that a path means: itself, the one in the folder, or the only one below it."""
    if not path.is_dir() or (path / "results.json").is_file():
        return path / "results.json" if path.is_dir() else path
    found = sorted(path.rglob("results.json"))
    if len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} results.json files, such as {found[0].parent}. Give one of them.")
    return found[0] if found else path / "results.json"


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} does not exist. Give a results.json that evaluate.py wrote, or its folder.")
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(results, dict) or "benchmarks" not in results:
        raise ValueError(f"{file} is not a results file: it has no benchmarks. Give one that evaluate.py wrote.")
    return results


def _answers(folder: Path, entry: dict[str, Any]) -> list[Answer]:
    path = folder / entry["answers"]
    if not path.is_file():
        raise ValueError(f"{path} is missing; paired differences need the answers beside results.json.")
    return store.by_question(store.read(path).values(), circular=entry.get("asked", {}).get("circular", False))
