"""`resume-check`: kill a real training run with SIGKILL, resume it, and compare it with a run that never stopped.

Three trainings: one without a stop; one that is killed between two checkpoints; one that goes on from its last
checkpoint under other counts of ranks and workers. Every micro-batch must have the same samples and the same loss.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from math import lcm
from pathlib import Path

from data_prep.sample_logs import difference, last_step, num_compared, read_logs

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
POLL_SECONDS = 0.05
OUTPUT_LINES = 15


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

    def command(self, name: str, counts: Counts, *, resume: bool = False) -> list[str]:
        """The training command of the run `name`."""
        launcher = [sys.executable]
        if counts.ranks > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={counts.ranks}"]
        log = self.home / f"{name}{'-resumed' if resume else ''}.jsonl"
        return [
            *launcher, str(TRAIN), *self.overrides, f"name={name}", f"runs_root={self.home / 'runs'}",
            f"trainer.devices={counts.ranks}", f"strategy={'ddp' if counts.ranks > 1 else 'single'}",
            f"data.num_workers={counts.workers}", f"stage.accumulate={counts.accumulate}",
            f"stage.steps={self.steps}", f"callbacks.checkpoints.every={self.every}",
            f"callbacks.sample_log={log}", "callbacks.progress=false",
            *(["resume=auto"] if resume else []),
        ]  # fmt: skip


def run_whole(check: Check, name: str, counts: Counts, *, resume: bool = False) -> None:
    """Train to the end.

    Raises:
        ValueError: the training failed; its last lines are in the message.
    """
    command = check.command(name, counts, resume=resume)
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TRAIN.parent)
    if ended.returncode:
        raise ValueError(_failure(name, ended.returncode, ended.stdout))


def run_killed(check: Check, name: str, counts: Counts) -> int:
    """Train until step `kill_at` is in the log, then SIGKILL every process of the run; the last step it logged.

    Raises:
        ValueError: the training failed, or ended before it could be killed.
    """
    output = check.home / f"{name}.txt"
    log = check.home / f"{name}.jsonl"
    with output.open("w") as file:
        process = subprocess.Popen(
            check.command(name, counts), stdout=file, stderr=subprocess.STDOUT, cwd=TRAIN.parent, start_new_session=True
        )  # fmt: skip
    try:
        while process.poll() is None and last_step(log) < check.kill_at:
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    if status != -signal.SIGKILL:
        if status:
            raise ValueError(_failure(name, status, output.read_text()))
        raise ValueError(f"the run ended before step {check.kill_at} could be killed. Raise --steps.")
    return last_step(log)


def _failure(name: str, status: int, output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("error:")), "")
    return f"training {name} ended with status {status}: {told or ' | '.join(lines[-OUTPUT_LINES:])}"


def make_check(check: Check, tolerance: float) -> str | None:
    """Run the three trainings and say what is going on; the first difference, or None when there is none."""
    first, then = check.first, check.then
    print(f"1/3 {check.steps} steps without a stop: {first.ranks} ranks x {first.workers} workers")
    run_whole(check, "whole", first)
    print(f"2/3 the same, killed in flight after step {check.kill_at}")
    killed_at = run_killed(check, "killed", first)
    print(f"3/3 resumed at step {killed_at // check.every * check.every}: {then.ranks} ranks x {then.workers} workers")
    run_whole(check, "killed", then, resume=True)
    whole = read_logs(check.home / "whole.jsonl")
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
    parser = argparse.ArgumentParser(
        prog="python -m data_prep resume-check", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m data_prep resume-check --ranks 2 --then-ranks 1 --then-workers 4 data=demo",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration as train.py takes it")
    parser.add_argument("--ranks", type=int, default=2, help="processes at first (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="loader workers a process at first (default: 2)")
    parser.add_argument("--then-ranks", type=int, default=1, help="processes after the kill (default: 1)")
    parser.add_argument("--then-workers", type=int, default=4, help="loader workers after the kill (default: 4)")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of a whole run (default: 12)")
    parser.add_argument("--every", type=int, default=4, help="steps between checkpoints (default: 4)")
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
        first=first, then=then, steps=given.steps, every=given.every, kill_at=given.every + (given.every + 1) // 2,
        overrides=given.overrides, home=home.resolve(),
    )  # fmt: skip
    found = make_check(check, given.tolerance)
    if found:
        print(f"different: {found}\nruns and logs are in {home}")
        return 1
    if given.keep is None:
        shutil.rmtree(home)
    print("identical")
    return 0
