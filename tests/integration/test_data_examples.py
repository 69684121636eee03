"""A data source of one's own, from a copy of `examples/`: trained on, resumed exactly, planned and shown."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from limits import patient
from users_folder import enter_examples

from data_prep.__main__ import main
from dragonfly_lit.app.build import compose
from dragonfly_lit.app.train import fit

pytest.importorskip("sklearn")
ROOT = Path(__file__).resolve().parents[2]
SHORT = ("stage=1", "data.batch.size=4", "callbacks.answers=null", "callbacks.progress=false")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder, which is the current one."""
    return enter_examples(tmp_path, monkeypatch)


def train(log, *overrides):
    """The samples and losses of a run, by step; six steps and a checkpoint at the third unless told otherwise."""
    given = [
        "--config-dir=conf",
        "data=digits",
        *SHORT,
        "trainer.limit_val_batches=1",
        "stage.steps=6",
        "callbacks.checkpoints.every=3",
    ]
    fit(compose([*given, f"callbacks.sample_log={log}", *overrides]))
    return {line["step"]: (line["keys"], line["loss"]) for line in map(json.loads, Path(log).read_text().splitlines())}


def test_the_command_of_the_page_trains(folder):
    command = [sys.executable, str(ROOT / "train.py"), "--config-dir", "conf", "data=digits", *SHORT]
    command += ["stage.steps=2", "trainer.limit_val_batches=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=patient(300))
    assert done.returncode == 0, done.stderr
    assert "2 steps, validation loss" in done.stdout


def test_a_reader_of_ones_own_resumes_as_if_it_had_never_stopped(folder):
    whole = train("whole.jsonl", "name=whole", "data.num_workers=2")
    stopped = Path("runs/stopped/checkpoints/step-00000003")
    shutil.copytree("runs/whole/checkpoints/step-00000003", stopped)
    resumed = train("resumed.jsonl", "name=stopped", "resume=auto", "data.num_workers=0")
    assert list(resumed) == [4, 5, 6]
    for step, (keys, loss) in resumed.items():
        assert keys == whole[step][0]
        assert loss == pytest.approx(whole[step][1], rel=1e-6)

    shutil.copytree(stopped, "runs/changed/checkpoints/step-00000003")
    with pytest.raises(ValueError, match=r"the data changed since the checkpoint.*sources\.digits\.shards was"):
        train("changed.jsonl", "name=changed", "resume=auto", "data.train.sources.digits.reader.noise=1.0")


def test_it_is_planned_and_shown_like_shards(folder, capsys):
    assert main(["mix-plan", "--config-dir", "conf", "data=digits"]) == 0
    assert "1,617" in capsys.readouterr().out
    assert main(["inspect", "--config-dir", "conf", "--sample", "train-0007", "data=digits"]) == 0
    assert "train-0007 of digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+SOURCE.path=x", r"digits\.path=x and .*digits\.reader are both set"),
        ("SOURCE.reader._target_=my_parts.data_source.Digit", r"data\.train\.sources\.digits\.reader"),
        ("+SOURCE.reader.sid=9", r"data\.train\.sources\.digits\.reader.*sid"),
        ("SOURCE.reader={_target_:builtins.dict}", r"reader is a dict without digest, record"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_node(folder, override, said):
    with pytest.raises(ValueError, match=said) as error:
        train("x.jsonl", override.replace("SOURCE", "data.train.sources.digits"), "data.num_workers=0")
    assert "\n" not in str(error.value)
