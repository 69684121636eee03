"""What earlier versions wrote goes on: `run_of_0_1` holds the first half of a run as version 0.1 left it.

Made at commit f85d58c by `python train.py stage=1 name=old stage.steps=6 callbacks.checkpoints.every=3
callbacks.checkpoints.trainable_only=true callbacks.sample_log=runs/old/samples.jsonl callbacks.answers=null
data.batch.size=4 data.num_workers=0 trainer.val_batches=2`; its log of samples covers both halves.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.load import load_for_inference
from dragonfly_lit.app.train import fit

RUN = Path(__file__).parent / "run_of_0_1"
CHECKPOINT = "checkpoints/step-00000003"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_of_version_0_1_goes_on_with_the_same_samples_and_losses(tmp_path):
    pytest.importorskip("easy_vqa")
    shutil.copytree(RUN / CHECKPOINT, tmp_path / "runs/old" / CHECKPOINT)
    log = tmp_path / "samples.jsonl"
    overrides = ["stage=1", "name=old", "resume=auto", "stage.steps=6", f"runs_root={tmp_path / 'runs'}"]
    overrides += ["callbacks.checkpoints.trainable_only=true", f"callbacks.sample_log={log}", "callbacks.answers=null"]
    overrides += ["data.batch.mode=padded", "data.batch.size=4", "data.val.batch_size=16", "model.recipe.1.lr=3e-3"]
    overrides += ["data.num_workers=0", "trainer.limit_val_batches=2", "callbacks.progress=false"]
    fit(compose(overrides))
    then, now = [line for line in lines(RUN / "samples.jsonl") if line["step"] > 3], lines(log)
    assert [(line["step"], line["keys"]) for line in now] == [(line["step"], line["keys"]) for line in then]
    assert [line["loss"] for line in now] == pytest.approx([line["loss"] for line in then], rel=1e-4)


def test_a_run_of_version_0_1_loads_for_inference():
    model, processor = load_for_inference(RUN)
    weight = model.projector.weight
    assert torch.isfinite(weight).all()
    assert weight.std() > 0
    assert processor.layout.num_tokens == 162
