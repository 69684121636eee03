"""How the work of each command grows: at n, 2n and 4n, with whatever grows faster than its input marked.

python benchmarks/growth.py [--only NAME ...] [--scale N] [--rounds N] [--json FILE]

Two counts of every command, called as the command line calls it: calls of functions (Python's and C's), which no other
job on the machine disturbs, and CPU seconds, which see inside of libraries. Of each the growth from 2n to 4n is divided
by that from n to 2n, so that what a command always costs falls out: 2 is linear, 4 quadratic. Exit status 1 if one is
above linear.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINEAR_CALLS, LINEAR_SECONDS = 2.5, 3.2
"""Ratios up to which a growth counts as linear: n log n is at 2.2; seconds are taken on machines with other jobs."""
SMALL = 0.05
"""What doubling adds, as a share of the whole, below which the size does not matter."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command and what is made larger.

    Attributes:
        line: as it is typed.
        counts: what n counts.
        size: n.
        prepare: makes the input of a size in a folder, and gives what runs the command on it.
    """

    line: str
    counts: str
    size: int
    prepare: Callable[[Path, int], Callable[[], Any]]


def rows_of(folder: Path, count: int, turns: int = 2) -> Path:
    """A LLaVA JSON of `count` rows with an image each, and `turns` exchanges."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), "green").save(folder / "a.jpg")
    said = [{"from": who, "value": f"{who} {n}"} for n in range(turns) for who in ("human", "gpt")]
    rows = [{"id": f"r{n}", "image": "a.jpg", "conversations": [dict(turn) for turn in said]} for n in range(count)]
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder / "rows.json"


def prepare_data(*words: str) -> None:
    """A command of `data_prep`.

    Raises:
        RuntimeError: it ended with an error.
    """
    from data_prep.__main__ import main

    if main(list(words)) != 0:
        raise RuntimeError(f"data_prep {words[0]} failed.")


def prepare_pack(folder: Path, n: int, turns: int = 2) -> Callable[[], Any]:
    """`data_prep pack` of n rows."""
    rows = rows_of(folder, n, turns)
    options = ["--from", "llava", "--out", str(folder / "out"), "--source", "s", "--licence", "MIT"]
    return lambda: prepare_data("pack", str(rows), "--images", str(folder), "--workers", "1", *options)


def prepare_conversation(folder: Path, n: int) -> Callable[[], Any]:
    """`data_prep pack` of ten conversations of n exchanges."""
    return prepare_pack(folder, 10, n)


def packed_folder(folder: Path, n: int) -> Path:
    """A folder of shards with n samples."""
    with contextlib.redirect_stdout(io.StringIO()):
        prepare_pack(folder, n)()
    return folder / "out"


def prepare_tool(name: str, *options: str) -> Callable[[Path, int], Callable[[], Any]]:
    """A command of `data_prep` over a folder of n samples."""

    def prepare(folder: Path, n: int) -> Callable[[], Any]:
        shards = packed_folder(folder, n)
        out = ("--out", str(folder / "out")) if name == "inspect" else ()
        return lambda: prepare_data(name, str(shards), *options, *out)

    return prepare


def prepare_loader(mode: str, **batch: Any) -> Callable[[Path, int], Callable[[], Any]]:
    """The micro-batches of a training that reads n samples."""

    def prepare(folder: Path, n: int) -> Callable[[], Any]:
        from dragonfly_lit.app.build import compose
        from dragonfly_lit.app.data import build_data
        from dragonfly_lit.app.factories import build_components

        shards = packed_folder(folder, 200)
        given = [f"data.batch.{key}={value}" for key, value in {"mode": mode, **batch}.items()]
        where = [
            "data=mine",
            f"data.path={shards}",
            f"runs_root={folder}",
            "data.num_workers=0",
            "data.epoch.passes=null",
        ]
        config = compose([*where, *given, f"data.epoch.samples={n}"])
        data = build_data(config, build_components(config).builder)
        return lambda: sum(1 for _ in data.train_dataloader())

    return prepare


def prepare_cut(_folder: Path, n: int) -> Callable[[], Any]:
    """Tokens of one sample with n questions about an image, of which few fit."""
    from dragonfly_lit.app.build import compose
    from dragonfly_lit.app.factories import build_components
    from dragonfly_lit.spec.samples import Turn

    builder = build_components(compose(["stage=1"])).builder
    pairs = [
        (Turn(role="user", text=f"what is at {k}?", num_images=int(not k)), Turn(role="assistant", text="a circle"))
        for k in range(n)
    ]
    turns = tuple(turn for pair in pairs for turn in pair)
    return lambda: [builder.tokenize(turns, 1, share_image=True) for _ in range(3)]


def questions_of(folder: Path, n: int) -> list[str]:
    """Overrides of a benchmark of n questions, and a file with an answer to each of them."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = [{"id": f"q{k}", "question": f"How many? {k}", "answer": str(k % 7)} for k in range(n)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    said = [{"id": row["id"], "prediction": str(k % 5)} for k, row in enumerate(asked)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    manifest = ["benchmark=my_set", f"benchmark.manifest={folder / 'questions.jsonl'}", "resamples=100", "gallery=8"]
    return [*manifest, f"predictions={folder / 'answers.jsonl'}"]


def prepare_scoring(folder: Path, n: int) -> Callable[[], Any]:
    """`evaluate.py predictions=FILE` with n answers: scores, intervals, report."""
    from dragonfly_lit.app.build import compose
    from dragonfly_lit.app.evaluate import evaluate_config

    config = compose([*questions_of(folder, n), f"out={folder / 'out'}"], "evaluate")
    return lambda: evaluate_config(config)


def prepare_compare(folder: Path, n: int) -> Callable[[], Any]:
    """`python -m dragonfly_lit compare` of two runs with n answers each."""
    from dragonfly_lit.evaluation.compare import main

    with contextlib.redirect_stdout(io.StringIO()):
        prepare_scoring(folder, n)()
    results = str(folder / "out" / "results.json")
    return lambda: main([results, results, "--names", "a", "b", "--resamples", "100"])


COMMANDS = {
    "pack": Command(line="data_prep pack", counts="rows", size=500, prepare=prepare_pack),
    "turns": Command(line="data_prep pack", counts="exchanges a row", size=40, prepare=prepare_conversation),
    "index": Command(line="data_prep index", counts="samples", size=1000, prepare=prepare_tool("index")),
    "lint": Command(line="data_prep lint", counts="samples", size=500, prepare=prepare_tool("lint", "--workers", "1")),
    "stats": Command(line="data_prep stats", counts="samples", size=2000, prepare=prepare_tool("stats")),
    "inspect": Command(
        line="data_prep inspect", counts="samples of the folder", size=250, prepare=prepare_tool("inspect")
    ),
    "padded": Command(line="train.py, reading", counts="samples", size=100, prepare=prepare_loader("padded")),
    "grouped": Command(
        line="train.py data.batch.mode=grouped, reading",
        counts="samples",
        size=100,
        prepare=prepare_loader("grouped", size=4),
    ),
    "packed": Command(
        line="train.py data.batch.mode=packed, reading",
        counts="samples",
        size=100,
        prepare=prepare_loader("packed", max_tokens=2048),
    ),
    "cut": Command(line="model.too_long=cut", counts="questions of a sample", size=100, prepare=prepare_cut),
    "score": Command(line="evaluate.py predictions=FILE", counts="answers", size=1000, prepare=prepare_scoring),
    "compare": Command(line="python -m dragonfly_lit compare", counts="answers", size=2000, prepare=prepare_compare),
}


def num_calls(work: Callable[[], Any]) -> int:
    """Functions that `work` calls, those of C among them."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def growth(figures: list[float]) -> float | None:
    """What the second doubling adds over what the first adds; None where the size does not matter."""
    one, two, four = figures
    if four - two < SMALL * four or two <= one:
        return None
    return (four - two) / (two - one)


def measure(command: Command, scale: int, rounds: int) -> dict[str, Any]:
    """Calls and CPU seconds, the least of some rounds, of a command at n, 2n and 4n."""
    sizes = [factor * command.size * scale for factor in (1, 2, 4)]

    def counted(size: int, count: Callable[[Callable[[], Any]], float]) -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            work = command.prepare(Path(folder) / "work", size)
            gc.collect()
            return count(work)

    counted(sizes[0], cpu_seconds)  # what is imported and kept at the first use
    calls = [counted(size, num_calls) for size in sizes]
    taken = [[counted(size, cpu_seconds) for size in sizes] for _ in range(rounds)]
    seconds = [min(column) for column in zip(*taken, strict=True)]
    above = [
        name
        for name, figures, limit in (("calls", calls, LINEAR_CALLS), ("seconds", seconds, LINEAR_SECONDS))
        if (growth(figures) or 0.0) > limit
    ]
    return {
        "command": command.line,
        "counts": command.counts,
        "n": sizes[0],
        "calls": calls,
        "seconds": seconds,
        "above_linear": above,
    }


def line_of(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""

    def told(figures: list[float]) -> str:
        ratio = growth(figures)
        return "does not grow" if ratio is None else f"{ratio:.2f}"

    mark = f"  ABOVE LINEAR in {' and '.join(found['above_linear'])}" if found["above_linear"] else ""
    calls = found["calls"][-1] / (4 * found["n"])
    milliseconds = found["seconds"][-1] / (4 * found["n"]) * 1e3
    return (
        f"{name:<9}{found['n']:>6} {found['counts']:<22}{told(found['calls']):>14}{told(found['seconds']):>15}"
        f"{calls:>12,.0f}{milliseconds:>10.3f}{mark}"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python benchmarks/growth.py", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--only", nargs="+", choices=COMMANDS, metavar="NAME", help=f"of {', '.join(COMMANDS)}")
    made.add_argument("--scale", type=int, default=1, help="times the sizes (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="of the seconds; the least counts (default: %(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table; 1 if something is above linear."""
    given = parser().parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parents[1]))  # data_prep of this clone
    print(f"{'':<9}{'n':>6} {'counts':<22}{'growth: calls':>14}{'CPU seconds':>15}{'calls each':>12}{'ms each':>10}")
    found: dict[str, Any] = {}
    for name in given.only or COMMANDS:
        found[name] = measure(COMMANDS[name], given.scale, given.rounds)
        print(line_of(name, found[name]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    above = [name for name in found if found[name]["above_linear"]]
    assert all(math.isfinite(value) for each in found.values() for value in each["seconds"])
    print(f"above linear: {', '.join(above) or 'none'} (2 is linear, 4 quadratic)")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
