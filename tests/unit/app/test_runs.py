"""Run folders: the latest has the name, earlier ones step aside, nothing is overwritten."""

import pytest

from dragonfly_lit.app.runs import held_run, read_config
from dragonfly_lit.app.runs import open_run as open_held_run
from dragonfly_lit.io.lock import in_use, locked


def open_run(root, name, config, *, resume):
    with held_run(root, name) as held:
        return open_held_run(root, name, config, resume=resume, held=held)


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


@pytest.mark.parametrize(
    "text", ["[", "- a\n- b", "", "\x00", "a: &a [*a, *b]", "!!python/object/apply:os.system [ls]"]
)
def test_a_configuration_that_is_not_one_is_named(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml is not") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_trains_is_neither_moved_nor_joined(tmp_path, resume):
    with held_run(tmp_path, "run") as held:
        folder = open_held_run(tmp_path, "run", {"seed": 0}, resume=False, held=held)
        with pytest.raises(ValueError, match=rf"{folder} is in use by process \d+ on .*another name="):
            open_run(tmp_path, "run", {"seed": 1}, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert read_config(folder) == {"seed": 0}


def test_the_new_folder_is_locked_and_the_one_aside_is_free(tmp_path):
    open_run(tmp_path, "run", {"seed": 0}, resume=False)
    with held_run(tmp_path, "run") as held:
        folder = open_held_run(tmp_path, "run", {"seed": 1}, resume=False, held=held)
        assert in_use(folder) is not None
        assert sorted(path.name for path in (tmp_path / "run.1").iterdir()) == ["config.yaml"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml"]


def test_a_run_does_not_step_aside_while_it_is_evaluated(tmp_path):
    folder = open_run(tmp_path, "run", {"seed": 0}, resume=False)
    with (
        locked(folder / "evaluation/easy", way_out="-"),
        pytest.raises(ValueError, match=r"run would step aside for this run, but .*evaluation/easy is in use by"),
    ):
        open_run(tmp_path, "run", {"seed": 1}, resume=False)
    assert open_run(tmp_path, "run", {"seed": 1}, resume=False) == folder


def test_other_ranks_take_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("dragonfly_lit.app.runs.global_rank", lambda: 1)
    with held_run(tmp_path, "run"):
        assert list(tmp_path.iterdir()) == []
