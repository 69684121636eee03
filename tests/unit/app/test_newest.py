"""`auto` takes the newest finished run of the same model, and says what it passed over and why."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from dragonfly_lit.app.load import find_checkpoint, results_root
from dragonfly_lit.app.newest import find_finished
from dragonfly_lit.app.runs import RESULT_FILE, held_run, open_run
from dragonfly_lit.app.starts import find_start
from dragonfly_lit.training.checkpoint import locate

MODEL = {
    "model": {"name": "tiny"},
    "vision": {"path": "builtin", "tower": {"_target_": "a.Tower"}, "feature_layer": -2},
    "language": {"path": "weights/words"},
    "projector": {"_target_": "a.Linear"},
    "zoom": {"top_k": 1, "learned": False, "selector": {"_target_": "a.Zoom"}},
}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Writes a run, each newer than the one before; what is checked of its files is their names."""
    monkeypatch.setattr(locate, "verify", lambda folder: None)

    def write(name, *, stage="1", step=200, steps=200, finished=False, config=MODEL):
        folder = tmp_path / name / f"checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / ".metadata").touch()
        info = {"stage": stage, "model": config["model"]["name"], "step": step, "steps": steps, "format": 1}
        write.clock += 1
        (folder / "checkpoint.json").write_text(json.dumps(info | {"saved_at": write.clock}))
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        if finished:
            (tmp_path / name / "result.json").write_text("{}")
        return folder

    write.clock = time.time()
    return write


def other(key, **values):
    return {**MODEL, key: {**MODEL[key], **values}}


def test_a_killed_run_is_passed_over_by_name(runs, tmp_path):
    wanted = runs("good")
    runs("killed", step=5)
    found = find_finished(tmp_path)
    assert found.checkpoint == wanted
    assert found.passed_over() == f" Passed over: {tmp_path}/killed (step 5 of 200, not finished)."


def test_a_damaged_end_is_passed_over_by_name_and_blocks_nothing(runs, tmp_path, monkeypatch):
    wanted = runs("good")
    bad = runs("bad")
    unreadable = runs("unreadable")
    (unreadable / "checkpoint.json").write_text("{")
    os.utime(unreadable, times=(2 * time.time(),) * 2)  # its own time is all that is left

    def verify(folder):
        if folder == bad:
            raise ValueError("cut.")

    monkeypatch.setattr(locate, "verify", verify)
    found = find_finished(tmp_path)
    assert found.checkpoint == wanted
    assert f"{tmp_path}/bad (its last checkpoint is damaged: cut)" in found.passed_over()
    assert f"{tmp_path}/unreadable (its last checkpoint is damaged: " in found.passed_over()


def test_a_run_that_stopped_early_of_its_own_has_finished(runs, tmp_path):
    runs("good")
    assert find_finished(tmp_path).taken.run.name == "good"
    assert runs("early", step=50, finished=True) == find_finished(tmp_path).checkpoint


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (other("vision", path="weights/clip"), "another model: vision.path=clip there, builtin here"),
        (other("vision", tower={"_target_": "b.Tower"}), "vision.tower._target_=b.Tower there"),
        (other("language", path="weights/others"), "language.path=others there, words here"),
        (other("projector", _target_="a.Mlp"), "projector._target_=a.Mlp there"),
        (other("zoom", learned=True), "zoom.learned=True there"),
        (other("model", name="large"), "of model=large"),
    ],
)
def test_weights_of_another_model_are_passed_over(runs, tmp_path, capsys, config, said):
    wanted = runs("good")
    runs("foreign", config=config)
    run = {**MODEL, "stage": {"name": "2"}, "runs_root": str(tmp_path), "name": "x", "init_from": "auto"}
    assert find_start(run, "init_from") == wanted
    told = capsys.readouterr().out
    assert said in told
    assert f"takes {tmp_path}/good (step 200 of 200), the newest finished stage-1 run" in told
    assert find_finished(tmp_path).taken.run.name == "foreign"  # an evaluation takes any model


def test_weights_lying_elsewhere_are_the_same_model(runs, tmp_path):
    wanted = runs("good", config=other("language", path="/data/words"))
    assert find_finished(tmp_path, like=MODEL).checkpoint == wanted


def test_another_number_of_crops_is_said_and_taken(runs, tmp_path):
    wanted = runs("good", config=other("zoom", top_k=3))
    found = find_finished(tmp_path, stage="1", like=MODEL)
    assert (found.checkpoint, found.differs) == (wanted, "zoom.top_k=3 there, 1 here")


def test_another_stage_is_no_candidate(runs, tmp_path):
    runs("later", stage="2")
    found = find_finished(tmp_path, stage="1", like=MODEL)
    assert (found.checkpoint, found.passed) == (None, ())


def test_a_run_that_goes_on_has_not_finished_until_it_ends_again(tmp_path):
    with held_run(tmp_path, "run") as held:
        (tmp_path / "run" / RESULT_FILE).write_text("{}")
        open_run(tmp_path, "run", {}, resume=True, held=held)
    assert not (tmp_path / "run" / RESULT_FILE).exists()


def test_where_none_has_finished_the_error_says_how_to_take_one(runs, tmp_path):
    runs("killed", step=5)
    way_out = f"Score one all the same: checkpoint={tmp_path}/killed$"
    with pytest.raises(ValueError, match=rf"none has finished. Passed over: .*step 5 of 200, not finished.*{way_out}"):
        find_checkpoint("auto", str(tmp_path))


def test_what_is_scored_is_said_first(runs, tmp_path, capsys):
    wanted = runs("good")
    assert find_checkpoint("auto", str(tmp_path)) == wanted
    assert capsys.readouterr().out.startswith(f"checkpoint=auto scores {tmp_path}/good (step 200 of 200)")


def test_results_lie_in_one_place_however_the_checkpoint_is_named(runs, tmp_path, monkeypatch):
    """The run, its last checkpoint, `auto`, from anywhere; an earlier checkpoint is another model."""
    last, run = runs("good"), tmp_path / "good"
    earlier = runs("good/../earlier", step=100).rename(last.parent / "step-00000100")
    for name in (str(run), f"{run}/", str(last), f"{last}/", f"{run}/checkpoints/../checkpoints/{last.name}"):
        assert results_root(Path(name)).resolve() == run / "evaluation", name
    assert results_root(find_checkpoint("auto", str(tmp_path))) == run / "evaluation"
    assert results_root(earlier) == run / "evaluation/step-00000100"
    for folder, name in ((run, "."), (run, f"checkpoints/{last.name}"), (last.parent, last.name), (last, ".")):
        monkeypatch.chdir(folder)
        assert results_root(Path(name)).resolve() == run / "evaluation", (folder, name)


def test_models_in_a_folder_called_checkpoints_are_no_steps_of_a_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    roots = {results_root(tmp_path / "checkpoints" / name) for name in ("a", "b")}
    assert roots == {tmp_path / "evaluation" / name for name in ("a", "b")}
