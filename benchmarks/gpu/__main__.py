"""Everything worth knowing of this project on one GPU, in under ten minutes, on a machine that needs no network.

    python -m benchmarks.gpu                        # from the root of the repository, where the project is installed
    python -m benchmarks.gpu --steps v1 stage2      # some steps only
    python -m benchmarks.gpu --dry                  # tiny sizes on a CPU: only to see that the check itself works

Every step runs in a process of its own under its own limit, so that one that fails, hangs or fills the memory costs no
other. Results: report.json (after every measurement), profiles.txt (kernels of each step), report.md (tables).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

STEPS = {
    "machine": (40, "machine"), "tests": (80, "runs"), "v1": (80, "training"), "stage2": (130, "training"),
    "v2": (70, "training"), "generation": (80, "runs"), "parity": (220, "runs"), "kernels": (60, "kernels"),
    "tower": (40, "tower"), "pipeline": (100, "runs"), "v1_more": (80, "training"), "stage2_more": (110, "training"),
}  # fmt: skip
"""Seconds that a step may take, and the module that holds it, in the order in which they run."""


def run_step(name: str, folder: Path, *, dry: bool) -> None:
    """Runs one step in this process."""
    from importlib import import_module

    from benchmarks.gpu.recording import Report

    step: Callable[[Report], None] = getattr(import_module(f"benchmarks.gpu.{STEPS[name][1]}"), name)
    step(Report(folder, name, dry=dry))


def run_all(steps: list[str], folder: Path, *, dry: bool, deadline: float, slow: float) -> None:
    """Runs steps one after another, each in its own process, none after the deadline."""
    began, done = time.monotonic(), {}
    for name in steps:
        left = deadline * slow - (time.monotonic() - began)
        limit = min(STEPS[name][0] * slow, left)
        if left < 10:
            done[name] = "not run: the deadline is near"
            continue
        print(f"=== {name} (at most {limit:.0f} s, {time.monotonic() - began:.0f} s gone)", flush=True)
        command = [sys.executable, "-m", "benchmarks.gpu", "--only", name, "--out", str(folder), *["--dry"] * dry]
        started = time.monotonic()
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            status: str = f"status {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            status = "stopped at its limit"
        done[name] = f"{status}, {time.monotonic() - started:.0f} s"
        print(f"--- {name}: {done[name]}", flush=True)
    path = folder / "report.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(found | {"steps": done}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of the results")
    parser.add_argument("--deadline", type=float, default=520, help="seconds after which no step starts")
    parser.add_argument("--slow", type=float, default=1, help="a factor on every limit, for a busy machine")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--only", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="only print the tables of an earlier report")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.only:
        run_step(arguments.only, arguments.out, dry=arguments.dry)
        return
    if not arguments.table:
        run_all(arguments.steps, arguments.out, dry=arguments.dry, deadline=arguments.deadline, slow=arguments.slow)
    from benchmarks.gpu.table import failures, tables

    report = json.loads((arguments.out / "report.json").read_text())
    text = tables(report)
    (arguments.out / "report.md").write_text(text)
    print(text)
    sys.exit(1 if failures(report) else 0)


if __name__ == "__main__":
    main()
