"""Preferences in small: after a stage 1, held-out pairs stand right more often, and answers stay right."""

import csv

import pytest
import torch

from dragonfly_lit.app.build import compose, make
from dragonfly_lit.app.data import build_data, prepare_data
from dragonfly_lit.app.factories import build_components
from dragonfly_lit.app.load import find_checkpoint, load_for_inference
from dragonfly_lit.app.train import fit
from dragonfly_lit.evaluation.runner import Settings, run
from dragonfly_lit.training.objectives import _by_answer

pytest.importorskip("easy_vqa")
NUM_QUESTIONS, NUM_BATCHES = 400, 40
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """By stage: share of held-out pairs whose chosen answer is the likelier one, and accuracy of the answers."""
    folder = tmp_path_factory.mktemp("preferences")
    small = [f"runs_root={folder / 'runs'}", f"data_root={folder / 'data'}", "data.num_workers=0", "logger=csv"]
    small += [
        "callbacks.progress=false",
        "callbacks.answers=null",
        "trainer.log_every=2",
        "trainer.limit_val_batches=4",
    ]
    of_stage = {
        "1": ["stage.steps=25"],
        "dpo": ["data=demo_preferences", f"init_from={folder / 'runs' / 'tiny-stage1'}"],
    }
    pairs = compose([*small, "stage=dpo", "data=demo_preferences"])
    data = build_data(pairs, build_components(pairs).builder)
    data.preferences = True
    prepare_data(data)
    found = {}
    for stage, more in of_stage.items():
        config = compose([*small, f"stage={stage}", *more])
        fit(config)
        model, processor = load_for_inference(
            find_checkpoint(str(folder / "runs" / config["name"]), config["runs_root"])
        )
        found[stage] = {"preferred": preferred(model, data), **accuracy(model, processor, folder / stage)}
    with (folder / "runs" / "tiny-stagedpo" / "metrics.csv").open() as file:
        found["rows"] = list(csv.DictReader(file))
    return found


def preferred(model, data) -> float:
    right, total = 0, 0
    for number, batch in enumerate(data.val_dataloader()):
        if number >= NUM_BATCHES:
            break
        with torch.inference_mode():
            tokens = model.loss_sums(**batch.model_inputs(), labels=batch.labels)
        (chosen, rejected), _, _ = _by_answer(batch, tokens.rows, -tokens.token_losses)
        right, total = right + int((chosen > rejected).sum()), total + len(chosen)
    return right / total


def accuracy(model, processor, out) -> dict[str, float]:
    scoring = compose([f"benchmark.limit={NUM_QUESTIONS}"], "evaluate")
    settings = Settings(prompts=make(scoring["prompt"]), resamples=10, gallery=0, progress=False)
    benchmarks = make(scoring["benchmark"]).benchmarks
    results = run(benchmarks, model=model, processor=processor, out=out, settings=settings)
    return {"accuracy": results["benchmarks"]["easy_vqa"]["scores"]["accuracy"]}


def test_held_out_pairs_stand_right_more_often(stages):
    before, after = stages["1"]["preferred"], stages["dpo"]["preferred"]
    assert before < 0.85, "a start that is right already has nothing to show"
    assert after > before + 0.05, (before, after)


def test_the_answers_stay_as_right_as_they_were(stages):
    assert stages["dpo"]["accuracy"] > stages["1"]["accuracy"] - 0.01, stages


def test_the_log_tells_of_margins_in_training_and_validation(stages):
    last = [row for row in stages["rows"] if row.get("reward_margin")][-1]
    assert float(last["reward_margin"]) > 0
    assert float(last["reward_accuracy"]) > 0.6
    held_out = [row for row in stages["rows"] if row.get("val_reward_accuracy")][-1]
    assert float(held_out["val_reward_accuracy"]) > 0.6
