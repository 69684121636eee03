"""`resume-check`: kill a real training run with SIGKILL, resume it, and compare it with a run that never stopped.

Three trainings: one without a stop; one that is killed between two checkpoints; one that goes on from its last
checkpoint under other counts of ranks and workers. Every micro-batch must have the same samples and the same loss.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from math import lcm
from pathlib import Path

from .arguments import add_overrides, command_parser, overrides_of
from .sample_logs import difference, last_step, num_compared, read_logs

EXAMPLE = "example: python -m data_prep resume-check --ranks 2 --then-ranks 1 --then-workers 4 data=demo"
POLL_SECONDS = 0.01
ERROR_LINE = re.compile(r"^(\[rank\d+\]:\s*)?(error|[\w.]*(Error|Exception)): ")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How a run is spread: processes, loader workers of each, and micro-batches of each in an optimizer step."""

    ranks: int
    workers: int
    accumulate: int


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check to make.

    Attributes:
        first: counts of the run without a stop, and of the one that is killed.
        then: counts of the resumed run; as many micro-batches an optimizer step.
        steps: optimizer steps of a whole run.
        every: steps between checkpoints.
        kill_at: the run is killed once this step is logged.
        overrides: configuration of all runs.
        home: where runs and logs go.
    """

    first: Counts
    then: Counts
    steps: int
    every: int
    kill_at: int
    overrides: list[str]
    home: Path

    def log(self, name: str, *, resume: bool = False) -> Path:
        """The log of samples and losses of a run, or of its resumption."""
        return self.home / f"{name}{'-resumed' if resume else ''}.jsonl"

    def command(self, name: str, counts: Counts, *, resume: bool = False) -> list[str]:
        """The training command of run `name`; Lightning starts its ranks, so they die with its process group."""
        return [
            sys.executable,
            "-m",
            "dragonfly_lit.train",
            *self.overrides,
            f"name={name}",
            f"runs_root={self.home / 'runs'}",
            f"trainer.devices={counts.ranks}",
            f"strategy={'ddp' if counts.ranks > 1 else 'single'}",
            f"data.num_workers={counts.workers}",
            f"stage.accumulate={counts.accumulate}",
            f"stage.steps={self.steps}",
            f"callbacks.checkpoints.every={self.every}",
            f"callbacks.sample_log={self.log(name, resume=resume)}",
            "callbacks.progress=false",
            "data.val=null",
            *(["resume=auto"] if resume else []),
        ]


def run_training(check: Check, name: str, counts: Counts, *, resume: bool = False, kill_at: int | None = None) -> int:
    """Train, to the end or until step `kill_at` is logged and every process gets a SIGKILL; the last step logged.

    Raises:
        ValueError: the training failed, or ended before it could be killed.
    """
    log = check.log(name, resume=resume)
    output = log.with_suffix(".txt")
    command = check.command(name, counts, resume=resume)
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while process.poll() is None and (kill_at is None or last_step(log) < kill_at):
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    if kill_at is None and status:
        raise ValueError(f"training {name} ended with status {status}: {_last_error(output)} (all of it: {output})")
    if kill_at is not None and status != -signal.SIGKILL:
        raise ValueError(
            f"training {name} ended before step {kill_at} could be killed: {_last_error(output)} ({output})"
        )
    reached = last_step(log)
    if kill_at is not None and reached >= check.steps:
        raise ValueError(f"the run was at its last step, {reached}, before it could be killed. Raise --steps.")
    return reached


def _last_error(output: Path) -> str:
    """The line of a training's output that says what went wrong."""
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if ERROR_LINE.search(line) and "ChildFailedError" not in line]
    return (told or lines or ["it said nothing"])[-1]


def make_check(check: Check, tolerance: float) -> str | None:
    """Run the three trainings and say what is going on; the first difference, or None when there is none."""
    first, then = check.first, check.then
    print(f"1/3 {check.steps} steps without a stop: {first.ranks} ranks x {first.workers} workers")
    run_training(check, "whole", first)
    print(f"2/3 the same, to be killed from step {check.kill_at} on")
    killed_at = run_training(check, "killed", first, kill_at=check.kill_at)
    print(f"    killed when step {killed_at} was logged")
    print(f"3/3 resumed from the last checkpoint: {then.ranks} ranks x {then.workers} workers")
    run_training(check, "killed", then, resume=True)
    whole = read_logs(check.log("whole"))
    found = None
    for name in ("killed", "killed-resumed"):
        part = read_logs(check.home / f"{name}.jsonl")
        found = found or difference(whole, part, tolerance, whole_steps=name == "killed-resumed")
        print(f"    {name}: {num_compared(whole, part)}")
    return found


def counts_of(ranks: int, workers: int, then_ranks: int, then_workers: int) -> tuple[Counts, Counts]:
    """Counts of both runs, with the fewest accumulated micro-batches that give both the same optimizer step."""
    micro_batches = lcm(ranks, then_ranks)
    first = Counts(ranks=ranks, workers=workers, accumulate=micro_batches // ranks)
    return first, Counts(ranks=then_ranks, workers=then_workers, accumulate=micro_batches // then_ranks)


def main(argv: list[str]) -> int:
    """Make the check; 0 and `identical`, or 1 and the first difference."""
    parser = command_parser(
        "resume-check",
        __doc__,
        epilog=EXAMPLE,
    )
    add_overrides(parser)
    parser.add_argument("--ranks", type=int, default=2, help="processes at first (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="loader workers a process at first (default: 2)")
    parser.add_argument("--then-ranks", type=int, default=1, help="processes after the kill (default: 1)")
    parser.add_argument("--then-workers", type=int, default=4, help="loader workers after the kill (default: 4)")
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps of a whole run (default: 24)")
    parser.add_argument("--every", type=int, default=6, help="steps between checkpoints (default: 6)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of losses, relative (default: 1e-4)")
    parser.add_argument("--keep", type=Path, help="folder to keep runs and logs in (default: removed when identical)")
    given = parser.parse_args(argv)
    if min(given.ranks, given.then_ranks, given.every) < 1 or min(given.workers, given.then_workers) < 0:
        raise ValueError("--ranks, --then-ranks and --every must be at least 1, the workers at least 0.")
    if given.steps < 2 * given.every:
        raise ValueError(f"--steps {given.steps} must be at least twice --every {given.every}, or nothing is resumed.")
    first, then = counts_of(given.ranks, given.workers, given.then_ranks, given.then_workers)
    home = given.keep or Path(tempfile.mkdtemp(prefix="resume-check-"))
    home.mkdir(parents=True, exist_ok=True)
    check = Check(
        first=first,
        then=then,
        steps=given.steps,
        every=given.every,
        kill_at=given.every + (given.every + 1) // 2,
        overrides=overrides_of(given),
        home=home.resolve(),
    )
    found = make_check(check, given.tolerance)
    if found:
        print(f"different: {found}\nruns and logs are in {home}")
        return 1
    if given.keep is None:
        shutil.rmtree(home)
    print("identical")
    return 0
