"""A training killed with SIGKILL and resumed under other counts is the one that never stopped: the whole command."""

import pytest

from data_prep.__main__ import main


@pytest.mark.slow
@pytest.mark.parametrize(("then_ranks", "then_workers"), [(1, 4), (2, 1)])
def test_resume_check_prints_identical(tmp_path, capsys, then_ranks, then_workers):
    pytest.importorskip("easy_vqa")
    argv = ["resume-check", "--ranks", "2", "--workers", "2", "--then-ranks", str(then_ranks)]
    argv += ["--then-workers", str(then_workers), "--steps", "12", "--every", "3", "data=demo"]
    argv += [f"data_root={tmp_path / 'data'}", "model.max_tokens=1024", "callbacks.answers=null"]
    assert main(argv) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "identical"
