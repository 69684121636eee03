"""One job of a sweep: a process and a folder of its own, run once, shown on one line."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from rich.console import Console
from rich.status import Status

from dragonfly_lit.app.runs import RESULT_FILE
from dragonfly_lit.app.stage import AUTO
from dragonfly_lit.io import atomic
from dragonfly_lit.io.commands import spelled, wants_traceback
from dragonfly_lit.io.metrics import METRICS_FILE, read_metrics
from dragonfly_lit.io.names import job_folder

LOG_FILE = "log.txt"
LOCK_FILE = ".running"
POLL_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: which signal a process gets when its parent ends, however that happened."""
_LIBC = ctypes.CDLL(None)


def job_name(overrides: list[str], *, without: tuple[str, ...] = ("experiment", "hydra", "name", "runs_root")) -> str:
    """The folder of a job, from what it overrides: `cell=low,seed=0`, the cell from `experiment/cell=low`."""
    values = [(key.removeprefix("experiment/"), value) for key, value in map(_key_and_value, overrides)]
    return job_folder([(key, value) for key, value in values if re.split(r"[./]", key.lstrip("+~"))[0] not in without])


def _key_and_value(item: str) -> tuple[str, str]:
    """Of an override; a text without the quotes that Hydra wants around it."""
    key, _, value = item.partition("=")
    try:
        found = OverridesParser.create().parse_override(item)
    except HydraException:
        return key, value
    text = value if found.is_sweep_override() else found.value()
    return key, text if isinstance(text, str) else value


def finished(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a job that ended with exactly this configuration, else None."""
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    # What the job wrote knows no folder of its own; another job's folder, where it began, is the sweep's to leave out.
    written, wanted = _without_home(result["config"], config), _comparable(config)
    for group, key in (("stage", "steps"), ("trainer", "devices"), ("trainer", "num_nodes")):
        if wanted.get(group, {}).get(key) == AUTO:  # the job knew how many that are, from its data and its machine
            wanted[group][key] = written.get(group, {}).get(key)
    return result if written == wanted else None


def write_result(folder: Path, config: dict[str, Any], values: dict[str, Any]) -> None:
    """Say that the job of `folder` has ended, and with what; written last and at once, so a kill leaves none."""
    atomic.write(folder / RESULT_FILE, json.dumps({**values, "config": _comparable(config)}, indent=1) + "\n")


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What makes a job another job: all but where it lies; through JSON, as what is read back has been."""
    values = {key: value for key, value in config.items() if key not in ("name", "runs_root", "resume")}
    return _without_home(values, config)


def _without_home(values: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The values, their paths within the run or sweep that `config` names written from there."""
    home = f"{config.get('runs_root')}/{config.get('name')}/"

    def written(value: Any) -> Any:
        if isinstance(value, dict):
            return {written(key): written(item) for key, item in value.items()}
        if isinstance(value, list):
            return [written(item) for item in value]
        return ("" if value == home[:-1] else value.replace(home, "")) if isinstance(value, str) else value

    return written(json.loads(json.dumps(values)))


def run_job(config: dict[str, Any], overrides: list[str], search_path: Sequence[str] = ()) -> float | None:
    """Run one job in its own process, or read the result of an earlier sweep; a killed job goes on where it was.

    Args:
        config: the job's configuration, resolved; `name` is the sweep's.
        overrides: what makes this job, as given to `train.py`.
        search_path: where the user's own configuration groups lie, as Hydra's search path names them.

    Returns:
        The job's validation loss, for a sweeper that optimises; None without validation data.

    Raises:
        ValueError: the job failed; names its log.
    """
    name = f"{config['name']}/{job_name(overrides)}"
    folder = Path(config["runs_root"]) / name
    console, label = Console(), job_name(overrides)
    folder.mkdir(parents=True, exist_ok=True)
    # A list of arguments, no line for a shell; the name has commas and equals signs, which Hydra reads as its own.
    command = [*train_command(), *_without(overrides, ("name", "resume")), spelled("name", name), "resume=auto"]
    command += [f"hydra.searchpath={json.dumps(list(search_path))}"] if search_path else []
    started = time.monotonic()
    with console.status(label) as status, _only_here(folder, status) as lock:
        if (result := finished(folder, config)) is not None:
            console.print(f"{label}: finished before, {_summary(result)}", highlight=False, soft_wrap=True)
            return result["val_loss"]
        status_code = _run(
            command, folder, lock, lambda: status.update(f"{label}: {_progress(folder, config, started)}")
        )
    result = finished(folder, config)
    if status_code:
        tail = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise ValueError(
            f"job {label} ended with status {status_code}: {' '.join(tail)} See {folder / LOG_FILE}; "
            "the same command goes on with the jobs that are missing."
        )
    if result is None:
        raise ValueError(
            f"job {label} ended well, but what lies in {folder} has another configuration: did another command train "
            f"there meanwhile? See {folder / LOG_FILE}; the same command starts the job again."
        )
    minutes = (time.monotonic() - started) / 60
    console.print(f"{label}: {_summary(result)}, {minutes:.1f} minutes", highlight=False, soft_wrap=True)
    return result["val_loss"]


def train_command() -> list[str]:
    """How a job is started: as this process was, by script or entry point; by module where a launcher began it."""
    started_as_module = getattr(sys.modules["__main__"], "__spec__", None) is not None
    return [sys.executable, *(["-m", "dragonfly_lit.train"] if started_as_module else [sys.argv[0]])]


def _run(command: list[str], folder: Path, lock: int, on_poll: Callable[[], None]) -> int:
    """Run a job to its end; its exit status. Its output goes to its log, and it keeps `lock` open."""
    with (folder / LOG_FILE).open("a") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            pass_fds=(lock,),
            preexec_fn=_end_with_parent,
        )
        try:
            while process.poll() is None:
                on_poll()
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return process.returncode


@contextmanager
def _only_here(folder: Path, status: Status) -> Iterator[int]:
    """A lock that the job inherits: one that outlived its sweep is waited for, not started a second time beside it."""
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            status.update(f"{folder.name}: waiting for the process that an earlier sweep left in {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _end_with_parent() -> None:
    """Runs in the job before it is `train.py`: a sweep that is killed takes its job along, which saves itself first."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _summary(result: dict[str, Any]) -> str:
    """What a finished job came to: its headline scores and its validation loss."""
    entries = result.get("benchmarks", {}).items()
    parts = [f"{name} {entry['scores'][entry['headline']] * entry['scale']:.1f}" for name, entry in entries]
    parts += [f"validation loss {result['val_loss']:.4f}"] if result["val_loss"] is not None else []
    return ", ".join(parts) or "finished"


def _environment() -> dict[str, str]:
    """What a job inherits; under SLURM the launcher is one task, and the job starts its own processes."""
    own = {"SLURM_NTASKS"} | ({"HYDRA_FULL_ERROR"} if not wants_traceback() else set())
    return {key: value for key, value in os.environ.items() if key not in own}


def _without(overrides: list[str], keys: tuple[str, ...]) -> list[str]:
    return [item for item in overrides if item.split("=")[0] not in keys]


def _progress(folder: Path, config: dict[str, Any], started: float) -> str:
    elapsed, steps = time.monotonic() - started, config["stage"]["steps"]
    try:
        rows = [row for row in read_metrics(folder / METRICS_FILE) if "loss" in row]
    except OSError:
        rows = []
    if not rows:
        return f"starting, {elapsed:.0f} s"
    step, loss = int(rows[-1]["step"]), f"loss {rows[-1]['loss']:.4f}"
    if steps == AUTO:
        return f"step {step}, {loss}, {elapsed:.0f} s"
    doing = f"step {step}/{steps}" if step < steps else "scoring"
    return f"{doing}, {loss}, {elapsed:.0f} s"
