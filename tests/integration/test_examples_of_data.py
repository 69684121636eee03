"""A mix, a language model and a format of one's own, from a copy of `examples/`: packed, planned, trained."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from limits import patient
from PIL import Image
from users_folder import enter_examples

from data_prep.__main__ import main
from data_prep.demo import make_demo
from dragonfly_lit.app.build import compose
from dragonfly_lit.app.train import fit

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "stage=1", "stage.steps=1", "data.batch.size=2", "data.num_workers=0", "callbacks.answers=null",
    "callbacks.progress=false", "trainer.limit_val_batches=1",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder, which is the current one."""
    return enter_examples(tmp_path, monkeypatch)


def test_a_format_of_ones_own_is_packed_checked_and_trained_on(folder):
    Image.new("RGB", (40, 30), "teal").save(folder / "a b.png")
    (folder / "rows.tsv").write_text("a b.png\twhat colour?\tteal\na b.png\tis it red?\tno\n")
    command = [sys.executable, "-m", "my_parts.pack_format", "rows.tsv", "data/mine"]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=patient(120))
    assert done.returncode == 0, done.stderr
    printed = done.stdout.partition(" is ready: ")[2].split()
    assert printed[0] == "dragonfly-data"  # the module of a clone is not in this folder
    assert main(printed[1:]) == 0
    fit(compose([*SHORT, "data=mine", "data.path=data/mine"]))


def test_a_mix_and_a_language_model_of_ones_own_are_planned_and_trained(folder, capsys):
    pytest.importorskip("easy_vqa")
    make_demo(folder / "data")
    own = ["--config-dir=conf", "data=my_mix", "language=my_words"]
    assert main(["mix-plan", *own[1:], "--config-dir", "conf"]) == 0
    assert "again/tests" in capsys.readouterr().out
    fit(compose([*own, *SHORT]))
