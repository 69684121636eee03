"""Jobs of a sweep: named by what they override, run once, alone in their folder, gone with their sweep."""

import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import patient

from dragonfly_lit.app.sweep import _progress, finished, job_name, write_result
from dragonfly_lit.evaluation.study.cells import split_job
from dragonfly_lit.io.names import job_folder


def test_a_job_is_named_by_what_it_overrides():
    assert job_name(["experiment=zoom_ablation", "cell=low", "seed=0"]) == "cell=low,seed=0"
    assert job_name(["experiment=zoom_ablation", "experiment/cell=low", "seed=0"]) == "cell=low,seed=0"
    assert job_name(["hydra/launcher=joblib", "hydra.sweep.dir=x"]) == "default"
    assert job_name(["data.path=/images/mine"]) == "data.path=-images-mine"
    assert job_name(["stage='2'", 'data.path="a, b=c"', "zoom.top_k=3"]) == "stage=2,data.path=a, b=c,zoom.top_k=3"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), min_size=1, max_size=9))
def test_a_job_s_folder_is_a_name_that_a_disk_takes(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("jobs") / job_folder([(f"data.k{n}", value) for n, value in enumerate(values)])
    folder.mkdir()
    assert len(folder.name.encode()) < 255


def test_a_long_name_keeps_its_seed_and_tells_jobs_apart():
    values = [("data.path", "x" * 300), ("seed", "1"), ("zoom.top_k", "3")]
    names = {job_folder([*values[:1], ("seed", seed), ("zoom.top_k", k)]) for seed in "12" for k in "34"}
    assert len(names) == 4
    cells = {split_job(name) for name in names}
    assert {seed for _, seed in cells} == {"1", "2"}
    assert len({cell for cell, _ in cells}) == 2


def test_a_sweep_tells_how_far_a_job_is_while_the_job_writes(tmp_path):
    log, config = b"loss,lr,step\n0.5,1e-3,8\n0.25,1e-3,16\n", {"stage": {"steps": 240}}
    assert "starting" in _progress(tmp_path, config, time.monotonic())
    told = set()
    for end in range(len(log) + 1):
        (tmp_path / "metrics.csv").write_bytes(log[:end])
        told.add(_progress(tmp_path, config, time.monotonic()).rpartition(",")[0])
    assert told == {"starting", "step 8/240, loss 0.5000", "step 16/240, loss 0.2500"}


def test_a_finished_job_counts_for_its_own_configuration_only(tmp_path):
    config = {"name": "sweep/a", "runs_root": "runs", "resume": None, "seed": 0, "zoom": {"top_k": 3}}
    assert finished(tmp_path, config) is None
    write_result(tmp_path, config, {"val_loss": 0.5})
    assert finished(tmp_path, config | {"name": "sweep", "resume": "auto"})["val_loss"] == 0.5
    assert finished(tmp_path, config | {"seed": 1}) is None


def test_what_a_job_finds_out_by_itself_makes_no_other_job(tmp_path):
    wanted = {"stage": {"steps": "auto"}, "trainer": {"devices": "auto", "num_nodes": 1}, "name": "a"}
    write_result(tmp_path, {"stage": {"steps": 7}, "trainer": {"devices": 4, "num_nodes": 1}, "name": "a"}, {})
    assert finished(tmp_path, wanted)
    assert finished(tmp_path, {**wanted, "stage": {"steps": 8}}) is None
    assert finished(tmp_path, {**wanted, "trainer": {"devices": "auto", "num_nodes": 2}}) is None


@pytest.mark.parametrize("name", ["sweep", "Größe ü=1", 'a "quoted" name', "back\\slash"])
def test_paths_inside_the_run_make_no_other_job(tmp_path, name):
    inside = {"quarantine": f"runs/{name}/seed=0/quarantine.jsonl", "folders": [f"runs/{name}/seed=0"]}
    child = {"name": f"{name}/seed=0", "runs_root": "runs", "data": inside}
    inside = {"quarantine": f"runs/{name}/quarantine.jsonl", "folders": [f"runs/{name}"]}
    parent = {"name": name, "runs_root": "runs", "data": inside}
    write_result(tmp_path, child, {"val_loss": 0.5})
    assert finished(tmp_path, parent)["val_loss"] == 0.5


def test_a_job_that_began_with_another_job_of_its_sweep_is_known_again(tmp_path):
    child = {"name": "sweep/cell=b,seed=0", "runs_root": "runs", "init_from": "runs/sweep/cell=a,seed=0"}
    parent = {**child, "name": "sweep"}
    write_result(tmp_path, child, {"val_loss": 0.5})
    assert finished(tmp_path, parent)["val_loss"] == 0.5
    assert finished(tmp_path, {**parent, "init_from": "runs/sweep/cell=a,seed=1"}) is None


JOB = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path({folder!r})
def save(*_):
    (folder / "saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
with (folder / "starts").open("a") as file:
    file.write(str(os.getpid()) + "\\n")
time.sleep({seconds})
(folder / "result.json").write_text(json.dumps({{"val_loss": 0.5, "config": {config!r}}}))
"""
SWEEP = """
import sys
from dragonfly_lit.app import sweep
sweep.POLL_SECONDS = 0.05
sys.argv[0] = {script!r}
print(sweep.run_job({config!r}, ["seed=0"]))
"""


@pytest.fixture
def start(tmp_path):
    """Starts a sweep of one job, which takes so many seconds and tells `steps` then; its process and the folder."""
    started = []

    def begin(seconds, steps=1):
        config = {"name": "sweep", "runs_root": str(tmp_path), "stage": {"steps": 1}}
        folder = tmp_path / "sweep" / "seed=0"
        script = tmp_path / "train.py"
        script.write_text(JOB.format(folder=str(folder), seconds=seconds, config={"stage": {"steps": steps}}))
        code = SWEEP.format(script=str(script), config=config)
        started.append(
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1], folder

    yield begin
    for process in started:
        process.kill()
        process.wait()


def wait_for(path):
    deadline = time.monotonic() + patient(60)
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the job runs on, and the next sweep waits for it")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_sweep_takes_its_job_along_which_saves_itself(start, how):
    sweep, folder = start(seconds=300)
    wait_for(folder / "starts")
    sweep.send_signal(how)
    wait_for(folder / "saved")
    assert not (folder / "result.json").exists()


def test_a_job_is_not_started_beside_itself(start):
    first, folder = start(seconds=2)
    wait_for(folder / "starts")
    second, _ = start(seconds=2)
    assert first.communicate(timeout=patient(60))[0].splitlines()[-1] == "0.5"
    assert "finished before" in second.communicate(timeout=patient(60))[0]
    assert len((folder / "starts").read_text().splitlines()) == 1


def test_a_job_that_ended_with_another_configuration_is_told(start):
    sweep, folder = start(seconds=0, steps=2)
    said = sweep.communicate(timeout=patient(60))[1].splitlines()[-1]
    assert sweep.returncode
    assert f"job seed=0 ended well, but what lies in {folder} has another configuration" in said
