"""The scripts for SLURM, with a srun and a scontrol that only write down how they were called."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from limits import patient

from data_prep.pack import parser as pack_parser
from dragonfly_lit.app.build import compose
from dragonfly_lit.app.launch import check_processes, resolve_processes

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples/slurm/train.sbatch"
SCRIPTS = sorted((ROOT / "examples/slurm").glob("*.sbatch"))
FAKE = """#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0")" "$@" >>"$CALLS"; printf -- '--\\n' >>"$CALLS"
if [ "$(basename "$0")" = srun ]; then eval "${DURING:-:}"; exit "$STATUS"; fi
"""


@pytest.fixture
def run(tmp_path):
    """Runs the script with a status of its tasks; the status of the script, and the calls that it made."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)

    def run_script(status, *arguments, during="", script=SCRIPT, **more):
        calls = tmp_path / "calls"
        calls.write_text("")
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "STATUS": str(status),
            "DURING": during,
            "SLURM_JOB_ID": "4711",
            "SLURM_CPUS_PER_TASK": "12",
            **more,
        }
        done = subprocess.run(
            ["bash", script, *arguments], env=environment, capture_output=True, text=True, timeout=patient(60)
        )
        assert done.stderr == ""
        return done.returncode, [call.splitlines() for call in calls.read_text().split("--\n") if call]

    return run_script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_it_is_sound_shell(script):
    subprocess.run(["bash", "-n", script], check=True)
    lines = [line for line in script.read_text().splitlines() if not line.startswith("#")]
    for line in lines:  # as shellcheck's SC2086: a value with spaces stays one word
        bare = re.sub(r'"[^"]*"', "", line)
        assert not re.search(r"\$(?!\?)", bare), line
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_directives_come_before_the_first_command(script):
    """sbatch reads none behind it."""
    lines = script.read_text().splitlines()
    first = next(place for place, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    assert all(line.count("--") == 1 for line in lines if line.startswith("#SBATCH"))


def test_tasks_get_the_cores_that_were_asked_for_and_the_arguments_as_they_are(run):
    status, calls = run(0, "stage=1", "name=two words")
    assert status == 0
    assert len(calls) == 1
    assert calls[0][:4] == ["srun", "--cpus-per-task=12", "python", "train.py"]
    assert calls[0][-2:] == ["stage=1", "name=two words"]


def test_a_job_that_was_saved_is_requeued(run):
    status, calls = run(75)
    assert status == 75
    assert calls[1:] == [["scontrol", "requeue", "4711"]]


@pytest.mark.parametrize("status", [1, 137])
def test_a_job_that_failed_is_not(run, status):
    assert run(status)[0] == status
    assert len(run(status)[1]) == 1


def test_a_signal_to_the_shell_does_not_lose_the_requeue(run):
    status, calls = run(75, during='kill -TERM "$PPID"; kill -USR1 "$PPID"')
    assert status == 75
    assert calls[1:] == [["scontrol", "requeue", "4711"]]


def test_what_it_starts_is_what_slurm_has_started(run, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    _, calls = run(0, *shlex.split("stage=1 model=dragonfly_v1 data=general_stage1"))
    config = compose(calls[0][4:])
    started = {"SLURM_NTASKS": "32", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "4", "SLURM_STEP_ID": "0"}
    for key, value in started.items():
        monkeypatch.setenv(key, value)
    resolve_processes(config)
    check_processes(config)
    assert (config["trainer"]["devices"], config["trainer"]["num_nodes"]) == (8, 4)


@pytest.mark.parametrize(
    ("more", "part"),
    [({"SLURM_ARRAY_TASK_COUNT": "8"}, "3/8"), ({"SLURM_ARRAY_TASK_COUNT": "1", "PARTS": "8"}, "3/8")],
)
def test_each_machine_of_an_array_packs_its_part(run, more, part):
    given = ["rows two.json", "--from", "llava", "--out", "out", "--source", "s", "--licence", "CC0"]
    script = ROOT / "examples/slurm/pack.sbatch"
    status, (call,) = run(0, *given, script=script, SLURM_ARRAY_TASK_ID="3", **more)
    assert status == 0
    assert call[:6] == ["srun", "--cpus-per-task=12", "python", "-m", "data_prep", "pack"]
    found = pack_parser().parse_args(call[6:])
    assert (str(found.path), found.workers, found.part) == ("rows two.json", 12, tuple(map(int, part.split("/"))))
    assert run(3, *given, script=script, SLURM_ARRAY_TASK_ID="3", **more)[0] == 3
