"""As many processes as the configuration speaks of, whatever has started them; else one line."""

import subprocess
import sys

import pytest
import torch
from limits import patient

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.launch import check_processes, launched, resolve_processes
from dragonfly_lit.app.train import fit
from dragonfly_lit.app.values import check_values

TORCHRUN = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
SLURM = {
    "SLURM_NTASKS": "32", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "4", "SLURM_JOB_NAME": "train",
    "SLURM_STEP_ID": "0",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """Sets what a launcher would; nothing else has started this test."""
    for key in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(key, raising=False)

    def setenv(values):
        for key, value in values.items():
            monkeypatch.setenv(key, value)

    return setenv


def processes(*overrides):
    """Devices and nodes of a run, checked as `fit` checks them."""
    config = compose(list(overrides))
    check_values(config, "train")
    resolve_processes(config)
    check_processes(config)
    return config["trainer"]["devices"], config["trainer"]["num_nodes"]


@pytest.mark.parametrize(
    ("env", "overrides", "found"),
    [
        ({}, ["trainer.devices=auto"], (1, 1)),
        ({}, ["trainer.devices=-1"], (1, 1)),
        ({}, ['trainer.devices="2"', "strategy=ddp"], (2, 1)),
        ({}, ["trainer.devices=2e0", "strategy=ddp"], (2, 1)),
        (TORCHRUN, ["trainer.devices=auto", "strategy=ddp"], (2, 1)),
        (TORCHRUN, ["trainer.devices=-1", "strategy=ddp"], (2, 1)),
        ({"WORLD_SIZE": "2", "RANK": "0"}, ["trainer.devices=auto", "strategy=ddp"], (2, 1)),
        (TORCHRUN, ["trainer.devices=2", "strategy=fsdp"], (2, 1)),
        (TORCHRUN | {"WORLD_SIZE": "8"}, ["trainer.devices=auto", "trainer.num_nodes=auto", "strategy=ddp"], (2, 4)),
        (SLURM, ["trainer.devices=auto", "trainer.num_nodes=auto", "strategy=ddp"], (8, 4)),
        (SLURM, ["trainer.devices=8", "trainer.num_nodes=4", "strategy=ddp"], (8, 4)),
        (SLURM | TORCHRUN, ["trainer.devices=2", "strategy=ddp"], (2, 1)),
        (SLURM | {"SLURM_JOB_NAME": "bash"}, ["trainer.devices=2", "strategy=ddp"], (2, 1)),
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, [], (1, 1)),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, [], (1, 1)),
    ],
)
def test_these_are_the_processes(environment, env, overrides, found):
    environment(env)
    assert processes(*overrides) == found


@pytest.mark.parametrize(
    ("env", "overrides", "said"),
    [
        (TORCHRUN, [], r"torchrun has started 2 processes, but trainer.devices=1 .* in one folder.*auto and strat"),
        (TORCHRUN, ["trainer.devices=4", "strategy=ddp"], r"2 processes, but trainer.devices=4.*would not come"),
        (TORCHRUN | {"WORLD_SIZE": "8"}, ["trainer.devices=2", "strategy=ddp"], r"8 processes.*trainer.num_nodes=auto"),
        (TORCHRUN, ["trainer.devices=1", "trainer.num_nodes=2", "strategy=ddp"], r"2 processes on each node, but"),
        (TORCHRUN, ["trainer.devices=auto"], r"trainer.devices=2 .*strategy=single\. Use strategy=ddp"),
        (SLURM, [], r"SLURM has started 32 processes, but trainer.devices=1 .*--ntasks-per-node"),
        (SLURM | {"SLURM_NTASKS": "1"}, ["trainer.devices=8", "strategy=ddp"], r"SLURM has started 1 process, but"),
        ({"SLURM_NTASKS": "2"}, ["trainer.devices=2", "strategy=ddp"], r"by --ntasks,.*--ntasks-per-node=2"),
        ({"WORLD_SIZE": "4"}, [], r"WORLD_SIZE has started 4 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ["trainer.devices=2", "strategy=ddp"], r"mpirun has started 2 .* torchrun"),
        ({}, ["trainer.devices=0"], r"trainer.devices=0 is not a whole number of at least 1 .* or auto"),
        ({}, ["trainer.devices=[1]"], r"trainer.devices=\[1\] is not a whole number .*CUDA_VISIBLE_DEVICES"),
        (TORCHRUN, ["trainer.devices=[1]"], r"trainer.devices=\[1\] is not a whole number .*CUDA_VISIBLE_DEVICES"),
        ({}, ["trainer.devices='0,1'"], r"trainer.devices=0,1 is not a whole number .*CUDA_VISIBLE_DEVICES"),
        ({}, ["trainer.devices=cuda:0"], r"trainer.devices=cuda:0 is not a whole number"),
        ({"WORLD_SIZE": "2"}, ["trainer.devices=1"], r"WORLD_SIZE has started 2 processes, but trainer.devices=1"),
        ({}, ["trainer.devices=-2"], r"trainer.devices=-2 is not a whole number"),
        ({}, ["trainer.devices=all"], r"trainer.devices=all is not a whole number"),
        ({}, ["trainer.devices=true"], r"trainer.devices=true is not a whole number"),
        ({}, ["trainer.num_nodes=0"], r"trainer.num_nodes=0 is not a whole number"),
    ],
)
def test_any_other_number_is_one_line(environment, env, overrides, said):
    environment(env)
    with pytest.raises(ValueError, match=said) as error:
        processes(*overrides)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=said):
        fit(compose(overrides))


def test_all_gpus_where_there_is_none_is_one_line(environment, monkeypatch):
    environment({})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"trainer.devices=auto: torch finds no CUDA device here"):
        processes("trainer=gpu", "trainer.devices=auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes("trainer=gpu8", "trainer.devices=auto") == (4, 1)


def test_a_batch_script_without_srun_is_warned_of(environment, caplog):
    environment({key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"})
    processes("trainer.devices=8", "trainer.num_nodes=4", "strategy=ddp")
    assert "without srun" in caplog.text


@pytest.mark.parametrize(("restarts", "warned"), [("0", False), ("3", True)])
def test_restarts_of_torchrun_are_warned_of(environment, caplog, restarts, warned):
    environment(TORCHRUN | {"TORCHELASTIC_MAX_RESTARTS": restarts})
    processes("trainer.devices=auto", "strategy=ddp")
    assert ("torchrun --max-restarts=3 starts a pre-empted run again at once" in caplog.text) is warned


def test_torchrun_ends_with_1_whatever_status_its_ranks_end_with():
    """So the documents tell a script around it to start any status but 0 again, and SLURM's script has no torchrun."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "--no-python"]
    rank = [sys.executable, "-c", "raise SystemExit(75)"]
    assert subprocess.run([*agent, *rank], capture_output=True, timeout=patient(120)).returncode == 1


def test_nothing_has_started_a_plain_command():
    assert launched({}) is None
    assert launched({"WORLD_SIZE": "", "SLURM_NTASKS": "abc"}) is None


def test_what_can_be_mended_on_any_machine_comes_before_a_missing_gpu(environment):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    environment({})
    for overrides, said in (
        (["trainer=gpu", "model=dragonfly_v1"], "vision.path=weights/clip-vit-base-patch32 does not exist"),
        (["trainer=gpu", "trainer.precision=fp16"], "trainer.precision=fp16"),
        (["trainer=gpu", "trainer.precision=fp8"], "trainer.accelerator=gpu: torch finds no CUDA device here"),
    ):
        with pytest.raises(ValueError, match=said):
            fit(compose(overrides))
