"""Ctrl-C on a real command line: what was saved and how to go on is said; a second one ends at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dragonfly_lit.training.checkpoint.locate import list_checkpoints
from dragonfly_lit.training.survival import ONE_PRESS_SECONDS

pytest.importorskip("easy_vqa")
ROOT = Path(__file__).resolve().parents[2]
LONG = [
    "name=run", "stage.steps=100000", "data.epoch.passes=null", "data.epoch.steps=100000", "model.max_tokens=1024",
    "callbacks.answers=null", "callbacks.checkpoints.every=100000", "data.val=null",
]  # fmt: skip

SLOW_STEP = """
import time
from pathlib import Path
from lightning.pytorch import Callback

class SlowStep(Callback):
    def on_train_batch_start(self, *args):
        Path("in_step").touch()
        for _ in range(6000):  # a step that is not over soon
            time.sleep(0.1)

class SlowSetup(Callback):
    def on_fit_start(self, *args):
        Path("in_setup").touch()
        time.sleep(600)
"""


def _as_in_a_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests that run in the background are told to ignore it


@pytest.fixture
def job(tmp_path):
    """Starts train.py in a process group of its own, as a terminal does; its output is one pipe."""
    started = []

    def start(*overrides: str, cwd: Path = ROOT) -> subprocess.Popen:
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            f"runs_root={tmp_path}",
            f"data_root={ROOT / 'data'}",
            *LONG,
            *overrides,
        ]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=cwd,
            preexec_fn=_as_in_a_terminal,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_for(process: subprocess.Popen, path: Path) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


def press_ctrl_c(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("ranks", [[], ["strategy=ddp", "trainer.devices=2"]], ids=["one rank", "two ranks"])
def test_ctrl_c_saves_and_says_how_to_go_on(job, tmp_path, ranks):
    process = job(*ranks, f"callbacks.sample_log={tmp_path / 'log.jsonl'}")
    wait_for(process, tmp_path / "log.jsonl")
    press_ctrl_c(process)
    said = process.communicate()[0]
    assert process.returncode == 130, said
    assert said.count("Ctrl-C: the run is saved after this step and ends.") == 1
    assert "Traceback" not in said
    ((folder, info),) = list_checkpoints(tmp_path / "run")
    assert f"Stopped after step {info.step} of 100000; saved in {folder}. The same command with resume=auto" in said

    if not ranks:
        steps = info.step + 1
        rerun = job("resume=auto", f"stage.steps={steps}", "callbacks.checkpoints.every=1")
        assert f"goes on from {folder}" in rerun.communicate()[0]


def test_a_second_ctrl_c_ends_at_once(job, tmp_path):
    slow = "+callbacks.slow._target_=slow_step.SlowStep"
    (tmp_path / "slow_step.py").write_text(SLOW_STEP)
    process = job(slow, cwd=tmp_path)
    wait_for(process, tmp_path / "in_step")
    press_ctrl_c(process)
    time.sleep(2 * ONE_PRESS_SECONDS)
    press_ctrl_c(process)
    said = process.communicate()[0]
    assert process.returncode == -signal.SIGINT
    assert "Press it again to end at once, unsaved." in said
    assert list_checkpoints(tmp_path / "run") == []


def test_ctrl_c_before_the_first_step_is_one_line(job, tmp_path):
    (tmp_path / "slow_step.py").write_text(SLOW_STEP)
    process = job("+callbacks.slow._target_=slow_step.SlowSetup", cwd=tmp_path)
    wait_for(process, tmp_path / "in_setup")
    press_ctrl_c(process)
    said = process.communicate()[0]
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("interrupted: no step was being trained.")
    assert "Traceback" not in said
