"""Commands in messages are spelled as they can be typed again, from the folder where the first one was typed."""

import sys

import pytest

from dragonfly_lit.io.commands import as_typed, is_clone

SAID = "Score it: python evaluate.py checkpoint=runs/a. Then python train.py stage=2, or python -m dragonfly_lit ask"


@pytest.mark.skipif(not is_clone(), reason="an installation has entry points")
@pytest.mark.parametrize(
    ("typed", "before"), [("train.py", ""), ("../train.py", "../"), ("../a b/evaluate.py", "'../a b/")], ids=str
)
def test_a_script_of_another_folder_is_named_by_its_path(monkeypatch, tmp_path, typed, before):
    for folder in (tmp_path, tmp_path / "a b", tmp_path / "here"):
        folder.mkdir(exist_ok=True)
        (folder / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", [typed])
    after = "'" if before.startswith("'") else ""
    said = as_typed(SAID)
    assert f"python {before}evaluate.py{after} checkpoint=runs/a" in said
    assert f"python {before}train.py{after} stage=2" in said
    assert said.endswith("python -m dragonfly_lit ask")


@pytest.mark.skipif(not is_clone(), reason="an installation has entry points")
def test_a_module_that_is_called_as_a_script_is_none(monkeypatch, tmp_path):
    """A launcher's job is `python -m dragonfly_lit.train`, whose file no user typed."""
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "src/dragonfly_lit/train.py")])
    assert as_typed(SAID) == SAID


def test_an_entry_point_names_entry_points(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/dragonfly-train"])
    assert as_typed(SAID).startswith("Score it: dragonfly-evaluate checkpoint=runs/a. Then dragonfly-train stage=2")
