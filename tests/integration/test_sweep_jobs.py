"""A sweep: a folder and a process a job, finished jobs are not run twice, several processes are refused."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from limits import patient

pytest.importorskip("skimage")
pytest.importorskip("sklearn")
from test_own_chat import TEMPLATE

from data_prep.probes import make_probes
from dragonfly_lit.app.build import compose
from dragonfly_lit.evaluation.study import command as study

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "experiment=zoom_ablation", "experiment/cell=low,raster", "seed=0", "model.recipe.2.steps=2",
    "model.recipe.2.batch_size=2", "benchmark.limit=6", "trainer.limit_val_batches=1", "data.num_workers=0",
)  # fmt: skip


def sweep(folder, *more, **environment):
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "-m",
        *SHORT,
        f"data_root={folder}/data",
        f"runs_root={folder}/runs",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([*command, *more], cwd=ROOT, env=env, capture_output=True, text=True, timeout=patient(600))


def test_a_sweep_inside_several_processes_is_refused(tmp_path):
    done = sweep(tmp_path, WORLD_SIZE="2")
    assert done.returncode == 1
    assert "--multirun was started by 2 processes" in done.stderr


# submitit runs in the journey of the researcher each time, with simpler names.
@pytest.mark.parametrize("launcher", ["basic", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_a_numbered_stage_runs_under_any_launcher_and_what_a_job_prints_can_be_typed(tmp_path, launcher):
    """submitit's local executor is what its SLURM executor is, without SLURM: the jobs of an array, pickled."""
    if launcher == "submitit_local":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    make_probes(tmp_path / "data", num_train=8, num_test=7, seed=0)
    overrides = [
        "stage=1",
        "data=probes",
        "stage.steps=1",
        "data.batch.size=2",
        "data.num_workers=0",
        'name="a, b=c: d"',
        "trainer.limit_val_batches=1",
        "callbacks.answers=null",
        "seed=0,1",
        f"hydra/launcher={launcher}",
        f"data_root={tmp_path}/data",
        f"runs_root={tmp_path}/runs",
        "trainer.devices=auto",
        f"language.chat={tmp_path}/chat.jinja",  # which the job knows by other values
    ]
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), "-m", *overrides]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=patient(600))
    assert done.returncode == 0, done.stdout + done.stderr
    told = "submitit_local runs the jobs, and nothing of them is shown here: each is a folder of "
    assert (f"{told}{tmp_path}/runs/a, b=c: d with its log.txt" in done.stdout) == (launcher == "submitit_local")
    results = sorted((tmp_path / "runs/a, b=c: d").glob("*/result.json"))
    assert [result.parent.name.split(",")[0] for result in results] == ["stage=1"] * 2
    for result in results:
        printed = (result.parent / "log.txt").read_text().partition("Score it: ")[2]
        words = shlex.split(printed.splitlines()[0])
        # As it was typed; a launcher's own process starts a module, and names the script as a clone has it.
        assert words[1] == (str(ROOT / "evaluate.py") if launcher == "basic" else "evaluate.py")
        assert Path(compose(words[2:], "evaluate")["checkpoint"]) == result.parent


@pytest.mark.slow
def test_a_sweep_goes_on_with_the_jobs_that_are_missing_and_its_study_is_read(tmp_path):
    make_probes(tmp_path / "data", num_train=8, num_test=7, seed=0)
    first = sweep(tmp_path)
    assert first.returncode == 0, first.stderr
    jobs = sorted(path for path in (tmp_path / "runs/zoom_ablation").iterdir() if path.is_dir())
    assert [job.name.split(",")[0] for job in jobs] == ["cell=low", "cell=raster"]
    selection = [json.loads((job / "result.json").read_text())["benchmarks"]["probes"]["selection"] for job in jobs]
    assert selection[0] is None
    assert selection[1]["random"] == pytest.approx(8 / 36)

    written = (jobs[0] / "result.json").stat().st_mtime_ns
    (jobs[1] / "result.json").unlink()  # as a job that was killed before it had scored itself
    again = sweep(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "finished before" in again.stdout
    assert (jobs[0] / "result.json").stat().st_mtime_ns == written
    assert json.loads((jobs[1] / "result.json").read_text())["benchmarks"]["probes"]["selection"] == selection[1]

    assert study.main([str(tmp_path / "runs/zoom_ablation")]) == 0
    assert "data:image/jpeg;base64," in (tmp_path / "runs/zoom_ablation/study.html").read_text()
