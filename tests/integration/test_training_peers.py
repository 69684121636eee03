"""The ranks of a run, whatever started them: what ends one ends all within a minute, in one line each."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from limits import patient

from dragonfly_lit.training.peers import Peers, check_same, lost_a_peer

ROOT = Path(__file__).resolve().parents[2]
PARTS = """
import io, os, signal
import lightning.pytorch as pl
from PIL import Image
from dragonfly_lit.data.source import Reader
from dragonfly_lit.spec.records import Record, Turn

RANK = int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or 0)

class Colours(Reader):
    def __init__(self, when):
        if when == "open" and RANK == 1:
            raise ValueError("shard colours-00001.tar is missing")
        self.length = 35 if when == "other data" and RANK == 1 else 40
    digest = "same"
    def __len__(self):
        return self.length
    def record(self, index, epoch):
        file = io.BytesIO()
        Image.new("RGB", (40, 40), (index, 0, 0)).save(file, "PNG")
        turns = (Turn(role="user", text="colour?", num_images=1), Turn(role="assistant", text="red"))
        return Record(key=f"c{index}", source="colours", turns=turns, images=(file.getvalue(),))

class Fault(pl.Callback):
    def __init__(self, when):
        self.when = when
        if when == "build" and RANK == 1:
            raise ValueError("this rank has no such part")
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 2 and RANK == 1 and self.when == "step":
            raise ValueError("sample c7 cannot be used")
        if trainer.global_step == 2 and RANK == 1 and self.when == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
"""
SOURCE = """
defaults: [_base, _self_]
train: {sources: {colours: {reader: {_target_: rank_parts.Colours, when: "${when}"}}}}
"""


def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def commands(launcher):
    """What starts each process, and what is in its environment."""
    if launcher == "lightning":
        return [([sys.executable], {})]
    if launcher == "torchrun":
        return [([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port()}"], {})]
    slurm = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "train",
        "SLURM_NODELIST": "localhost",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port()),
    }
    return [([sys.executable], slurm | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}) for rank in (0, 1)]


def launch(folder, launcher, when, devices="2", strategy="ddp"):
    """Exit statuses, outputs, and the seconds that it took."""
    (folder / "rank_parts.py").write_text(PARTS)
    (folder / "conf/data").mkdir(parents=True)
    (folder / "conf/data/colours.yaml").write_text(SOURCE)
    overrides = [
        "--config-dir=conf",
        "data=colours",
        f"+when={when}",
        "+callbacks.fault._target_=rank_parts.Fault",
        f"+callbacks.fault.when={when}",
        "stage=1",
        "stage.steps=4",
        "name=ranks",
        f"strategy={strategy}",
        f"trainer.devices={devices}",
        "data.num_workers=0",
        "data.batch.size=2",
        "callbacks.checkpoints.every=1",
        "callbacks.progress=false",
        "callbacks.answers=null",
    ]
    own = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in own and not key.startswith("SLURM_")}
    started, processes = time.monotonic(), []
    for number, (command, more) in enumerate(commands(launcher)):
        with (folder / f"out.{number}").open("w") as out:
            processes.append(
                subprocess.Popen(
                    [*command, str(ROOT / "train.py"), *overrides],
                    cwd=folder,
                    env=environment | more,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    try:
        statuses = [process.wait(timeout=patient(240)) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    texts = [(folder / f"out.{number}").read_text() for number in range(len(processes))]
    return statuses, "\n".join(texts), time.monotonic() - started


SAID = {
    "build": "this rank has no such part",
    "open": "shard colours-00001.tar is missing",
    "other data": "rank 0 and rank 1 read different data: data.train.sources.colours is samples 40, shards same on "
    "rank 0 and samples 35, shards same on rank 1",
    "step": "sample c7 cannot be used",
    "killed": "rank",
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "slurm"])
@pytest.mark.parametrize("when", list(SAID))
def test_what_ends_one_rank_ends_all_in_one_line(tmp_path, launcher, when):
    statuses, text, _ = launch(tmp_path, launcher, when)
    assert all(statuses), text
    assert SAID[when] in text
    ours = text.split("torch/distributed/elastic")[0]  # torchrun adds its own report
    assert "Traceback" not in ours, text


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_processes_that_would_each_train_by_themselves_are_refused(tmp_path, launcher):
    statuses, text, _ = launch(tmp_path, launcher, "never", devices="1", strategy="single")
    assert all(statuses), text
    assert "has started 2 processes, but trainer.devices=1 on trainer.num_nodes=1 is 1" in text
    assert "Traceback" not in text.split("torch/distributed/elastic")[0], text
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_as_many_as_there_are_is_as_many_as_the_launcher_has_started(tmp_path, launcher):
    statuses, text, _ = launch(tmp_path, launcher, "never", devices="auto")
    assert not any(statuses), text
    assert text.count("4 steps") == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "slurm"])
def test_ranks_that_agree_train(tmp_path, launcher):
    statuses, text, _ = launch(tmp_path, launcher, "never")
    assert not any(statuses), text
    assert text.count("4 steps") == 1


PEER = """
import os, sys, time
from dragonfly_lit.io.later import import_quickly
peers = import_quickly("dragonfly_lit.training.peers")
peers.SILENT_POLLS = 4
rank, does = int(sys.argv[1]), sys.argv[2]
with peers.Peers(3, 1) as met:
    assert met.first("start", lambda: {"resume": "a"}) == {"resume": "a"}
    assert met.gather("data", met.rank) == [0, 1, 2]
    if rank == 1 and does == "fails":
        raise ValueError("a reason")
    if rank == 1 and does == "stops":
        os.kill(os.getpid(), 19)
    if rank == 0 and does == "first is killed":
        time.sleep(5)
        os._exit(9)
    if does != "agrees":
        time.sleep(100)
print("done")
"""


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("agrees", "done"),
        ("fails", "rank 1 on .* has ended: a reason"),
        ("stops", "rank 1 has ended without a word"),
        ("first is killed", "rank 0, or the launcher that keeps the ranks in contact, is gone"),
    ],
)
def test_three_that_meet(does, said):
    own = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()), "NODE_RANK": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PEER, str(rank), does],
            env=os.environ | own | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1, 2)
    ]
    others = [process for rank, process in enumerate(processes) if does != "stops" or rank != 1]
    outputs = [process.communicate(timeout=patient(200))[0] for process in others]
    for process in processes:
        process.kill()
    if does == "agrees":
        # Beside what torch says of torchao, where that is installed.
        ours = [[line for line in output.splitlines() if "torch/utils/_pytree.py" not in line] for output in outputs]
        assert ours == [["done"]] * 3
        return
    assert all(process.returncode for process in others)
    lines = [line for output in outputs for line in output.splitlines() if line.startswith("error: rank")]
    assert len(lines) == 2
    assert all(re.search(said, line) for line in lines), outputs


def test_one_process_meets_nobody():
    with Peers(1, 1) as peers:
        assert peers.first("start", lambda: 3) == 3
        assert peers.gather("data", 5) == [5]


def test_different_data_are_named_by_rank_and_source():
    same = {"data.train.sources.a": {"samples": 3, "shards": "x"}}
    check_same([same, dict(same), dict(same)])
    with pytest.raises(
        ValueError, match=r"rank 0 and rank 2 .*sources\.a is samples 3.* samples 3, shards y on rank 2"
    ):
        check_same([same, same, {"data.train.sources.a": {"samples": 3, "shards": "y"}}])
    with pytest.raises(ValueError, match=r"sources\.b is missing on rank 0 and samples 1"):
        check_same([same, same | {"data.train.sources.b": {"samples": 1}}])


def test_what_torch_says_of_a_lost_rank_is_put_into_words():
    assert "another rank has gone" in str(
        lost_a_peer(RuntimeError("[gloo/x.cc:1] Connection closed by peer [127.0.0.1]"))
    )
    assert lost_a_peer(RuntimeError("shape mismatch")) is None
