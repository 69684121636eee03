"""The check for a GPU runs through on a CPU at tiny sizes, and says what failed."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.table import failures

ROOT = Path(__file__).parents[2]


def test_a_dry_run_of_the_check_measures_every_way_to_train(tmp_path):
    steps = ["machine", "v1", "stage2", "tower"]
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--dry",
        "--slow",
        "20",
        "--out",
        str(tmp_path),
        "--steps",
        *steps,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    report = json.loads((tmp_path / "report.json").read_text())
    assert failures(report) == []
    assert done.returncode == 0, done.stderr[-2000:]
    ways = {(step, way) for step in ("v1", "stage2") for way in report[step]}
    assert len(ways) == 3
    assert all(report[step][way]["tokens_s"] > 0 for step, way in ways)
    assert all(row in (tmp_path / "report.md").read_text() for row in ("v1 stage1", "8b quarter fsdp"))


def test_what_failed_is_named():
    report = {
        "v1": {"stage1": {"error": "OutOfMemoryError: all of it"}},
        "parity": {"failed": {"fsdp-s2": {"status": 1}}},
        "steps": {"v1": "status 0, 3 s", "v2": "stopped at its limit, 80 s"},
    }
    assert failures(report) == ["v2", "v1 stage1", "parity fsdp-s2"]
