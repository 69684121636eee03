"""The main job in small: the projector aligns, then everything tunes, and the answers to unseen questions show it."""

import csv

import pytest

from dragonfly_lit.app.build import compose, make
from dragonfly_lit.app.load import find_checkpoint, load_for_inference
from dragonfly_lit.app.train import fit
from dragonfly_lit.evaluation.runner import Settings, run

pytest.importorskip("easy_vqa")
NUM_QUESTIONS = 400


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Loss by step, validation loss and accuracy of a short stage 1 and of the stage 2 that goes on from it."""
    folder = tmp_path_factory.mktemp("learn")
    small = [f"runs_root={folder / 'runs'}", f"data_root={folder / 'data'}", "data.num_workers=0", "logger=csv"]
    small += ["callbacks.progress=false", "trainer.log_every=2", "trainer.limit_val_batches=4"]
    found = {}
    for stage, steps, lr in (("1", 60, 8e-3), ("2", 20, 3e-4)):
        config = compose([*small, f"stage={stage}", f"stage.steps={steps}", f"stage.groups.0.lr={lr}"])
        val_loss = fit(config)
        with (folder / "runs" / config["name"] / "metrics.csv").open() as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
        model, processor = load_for_inference(find_checkpoint("auto", config["runs_root"]))
        scoring = compose([f"benchmark.limit={NUM_QUESTIONS}"], "evaluate")
        settings = Settings(prompts=make(scoring["prompt"]), resamples=10, gallery=0, progress=False)
        results = run(
            make(scoring["benchmark"]).benchmarks,
            model=model,
            processor=processor,
            out=folder / stage,
            settings=settings,
        )
        found[stage] = (losses, val_loss, results["benchmarks"]["easy_vqa"]["scores"]["accuracy"])
    return found


def test_the_loss_falls_in_both_stages(stages):
    for losses, _, _ in stages.values():
        assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_the_projector_alone_lets_the_language_model_read_images(stages):
    _, _, accuracy = stages["1"]
    # Always answering "no" scores about a third of this split.
    assert accuracy > 0.6


def test_stage_two_goes_on_from_stage_one_and_improves_it(stages):
    assert stages["2"][0][0] < stages["1"][0][0] / 2
    assert stages["2"][1] < stages["1"][1]
    assert stages["2"][2] > stages["1"][2] - 0.02
    assert stages["2"][2] > 0.75
