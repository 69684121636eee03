"""Commands in messages are spelled as they can be typed again, from the folder where the first one was typed."""

import sys

import pytest

from dragonfly_lit.io.commands import as_typed, is_clone

SAID = "Score it: python evaluate.py checkpoint=runs/a. Then python train.py stage=2, or python -m dragonfly_lit ask"


@pytest.mark.skipif(not is_clone(), reason="an installation has entry points")
@pytest.mark.parametrize(
    ("typed", "before"), [("train.py", ""), ("../train.py", "../"), ("/a b/evaluate.py", "'/a b/")], ids=str
)
def test_a_script_of_another_folder_is_named_by_its_path(monkeypatch, typed, before):
    monkeypatch.setattr(sys, "argv", [typed])
    after = "'" if before.startswith("'") else ""
    said = as_typed(SAID)
    assert f"python {before}evaluate.py{after} checkpoint=runs/a" in said
    assert f"python {before}train.py{after} stage=2" in said
    assert said.endswith("python -m dragonfly_lit ask")


def test_an_entry_point_names_entry_points(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/dragonfly-train"])
    assert as_typed(SAID).startswith("Score it: dragonfly-evaluate checkpoint=runs/a. Then dragonfly-train stage=2")
