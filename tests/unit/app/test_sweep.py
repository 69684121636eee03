"""Jobs of a sweep: named by what they override, run once."""

from dragonfly_lit.app.sweep import finished, job_name, write_result


def test_a_job_is_named_by_what_it_overrides():
    assert job_name(["experiment=zoom_ablation", "cell=low", "seed=0"]) == "cell=low,seed=0"
    assert job_name(["hydra/launcher=joblib", "hydra.sweep.dir=x"]) == "default"
    assert job_name(["data.path=/images/mine"]) == "data.path=-images-mine"


def test_a_finished_job_counts_for_its_own_configuration_only(tmp_path):
    config = {"name": "sweep/a", "runs_root": "runs", "resume": None, "seed": 0, "zoom": {"top_k": 3}}
    assert finished(tmp_path, config) is None
    write_result(tmp_path, config, {"val_loss": 0.5})
    assert finished(tmp_path, config | {"name": "sweep", "resume": "auto"})["val_loss"] == 0.5
    assert finished(tmp_path, config | {"seed": 1}) is None


def test_paths_inside_the_run_make_no_other_job(tmp_path):
    child = {"name": "sweep/seed=0", "runs_root": "runs", "data": {"quarantine": "runs/sweep/seed=0/quarantine.jsonl"}}
    parent = {"name": "sweep", "runs_root": "runs", "data": {"quarantine": "runs/sweep/quarantine.jsonl"}}
    write_result(tmp_path, child, {"val_loss": 0.5})
    assert finished(tmp_path, parent)["val_loss"] == 0.5
