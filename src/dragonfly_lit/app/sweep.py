"""One job of a sweep: a process and a folder of its own, run once, shown on one line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

RESULT_FILE = "result.json"
LOG_FILE = "log.txt"
POLL_SECONDS = 1.0


def job_name(overrides: list[str], *, without: tuple[str, ...] = ("experiment", "hydra", "name", "runs_root")) -> str:
    """The folder of a job, from what it overrides: `cell=low,seed=0`."""
    own = [item for item in overrides if item.split("=")[0].split(".")[0].split("/")[0].lstrip("+~") not in without]
    return ",".join(item.replace("/", "-") for item in own) or "default"


def finished(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a job that ended with exactly this configuration, else None."""
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    return result if result["config"] == _comparable(config) else None


def write_result(folder: Path, config: dict[str, Any], values: dict[str, Any]) -> None:
    """Say that the job of `folder` has ended, and with what; written last and at once, so a kill leaves none."""
    partial = folder / f".{RESULT_FILE}.partial"
    partial.write_text(json.dumps({**values, "config": _comparable(config)}, indent=1) + "\n")
    os.replace(partial, folder / RESULT_FILE)


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What makes a job another job: all but where it lies; through JSON, as what is read back has been."""
    home = f"{config.get('runs_root')}/{config.get('name')}/"
    text = json.dumps({key: value for key, value in config.items() if key not in ("name", "runs_root", "resume")})
    return json.loads(text.replace(home, ""))


def run_job(config: dict[str, Any], overrides: list[str]) -> float | None:
    """Run one job in its own process, or read the result of an earlier sweep; a killed job goes on where it was.

    Args:
        config: the job's configuration, resolved; `name` is the sweep's.
        overrides: what makes this job, as given to `train.py`.

    Returns:
        The job's validation loss, for a sweeper that optimises; None without validation data.

    Raises:
        ValueError: the job failed; names its log.
    """
    name = f"{config['name']}/{job_name(overrides)}"
    folder = Path(config["runs_root"]) / name
    console, label = Console(), job_name(overrides)
    if (result := finished(folder, config)) is not None:
        console.print(f"{label}: finished before, {_said(result)}", highlight=False)
        return result["val_loss"]
    folder.mkdir(parents=True, exist_ok=True)
    # Quoted: a job's name has commas and equals signs, which Hydra would read as a sweep of its own.
    command = [sys.executable, sys.argv[0], *_without(overrides, ("name", "resume")), f"name='{name}'", "resume=auto"]
    started = time.monotonic()
    with (folder / LOG_FILE).open("a") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=_environment()
        )
        try:
            with console.status(label) as status:
                while process.poll() is None:
                    status.update(f"{label}: {_progress(folder, config['stage']['steps'], started)}")
                    time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    result = finished(folder, config)
    if process.returncode or result is None:
        tail = (folder / LOG_FILE).read_text().strip().splitlines()[-1:]
        raise ValueError(
            f"job {label} ended with status {process.returncode}: {' '.join(tail)} See {folder / LOG_FILE}; "
            "the same command goes on with the jobs that are missing."
        )
    minutes = (time.monotonic() - started) / 60
    console.print(f"{label}: {_said(result)}, {minutes:.1f} minutes", highlight=False)
    return result["val_loss"]


def _said(result: dict[str, Any]) -> str:
    """What a finished job came to: its headline scores and its validation loss."""
    entries = result.get("benchmarks", {}).items()
    told = [f"{name} {entry['scores'][entry['headline']] * entry['scale']:.1f}" for name, entry in entries]
    told += [f"validation loss {result['val_loss']:.4f}"] if result["val_loss"] is not None else []
    return ", ".join(told) or "finished"


def _environment() -> dict[str, str]:
    """What a job inherits; under SLURM the launcher is one task, and the job starts its own processes."""
    return {key: value for key, value in os.environ.items() if key != "SLURM_NTASKS"}


def _without(overrides: list[str], keys: tuple[str, ...]) -> list[str]:
    return [item for item in overrides if item.split("=")[0] not in keys]


def _progress(folder: Path, steps: int, started: float) -> str:
    elapsed = time.monotonic() - started
    try:
        with (folder / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row.get("loss")]
    except OSError:
        rows = []
    if not rows:
        return f"starting, {elapsed:.0f} s"
    step = int(rows[-1]["step"])
    doing = f"step {step}/{steps}" if step < steps else "scoring"
    return f"{doing}, loss {float(rows[-1]['loss']):.4f}, {elapsed:.0f} s"
