"""Run folders: the latest has the name, earlier ones step aside, nothing is overwritten."""

import pytest

from dragonfly_lit.app.runs import open_run, read_config


def test_an_earlier_run_steps_aside_and_keeps_its_files(tmp_path):
    for number in range(3):
        folder = open_run(tmp_path, "tiny-stage1", {"seed": number}, resume=False)
    assert folder == tmp_path / "tiny-stage1"
    seeds = [read_config(tmp_path / name)["seed"] for name in ("tiny-stage1", "tiny-stage1.1", "tiny-stage1.2")]
    assert seeds == [2, 0, 1]


def test_resuming_stays_in_the_folder(tmp_path):
    first = open_run(tmp_path, "run", {"seed": 0}, resume=False)
    (first / "metrics.csv").write_text("step\n1\n")
    again = open_run(tmp_path, "run", {"seed": 0}, resume=True)
    assert (again / "metrics.csv").read_text() == "step\n1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_unwritable_root_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ValueError, match=r"runs_root=.*file.*Choose another runs_root"):
        open_run(blocked, "run", {}, resume=False)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is not a run: it has no config\.yaml"):
        read_config(tmp_path)
