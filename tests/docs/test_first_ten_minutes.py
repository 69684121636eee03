"""The notebook runs from its first cell to its last, and the Dockerfile's lines are what a clone can do."""

import ast
import json
import re
import shlex

import pytest
from clone import SHORTER, link_clone
from command_checks import check_install
from docs_pages import ROOT
from programs import run_python

NOTEBOOK = ROOT / "examples/first_steps.ipynb"
KNOWN = ("ARG", "CMD", "COPY", "FROM", "RUN", "WORKDIR")


def cells():
    found = json.loads(NOTEBOOK.read_text())
    assert (found["nbformat"], found["metadata"]["kernelspec"]["name"]) == (4, "python3")
    return ["".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_without_outputs():
    assert all(not cell.get("outputs") for cell in json.loads(NOTEBOOK.read_text())["cells"])


def test_the_notebook_runs(tmp_path):
    """Its cells in order, as one program: the last expression of each is printed, as Jupyter shows it."""
    pytest.importorskip("easy_vqa")
    link_clone(tmp_path)
    (tmp_path / "examples").mkdir()  # where Jupyter starts
    lines = []
    for cell in cells():
        tree = ast.parse(cell.replace("STEPS, QUESTIONS = 150, 1000", "STEPS, QUESTIONS = 2, 4"))
        if isinstance(tree.body[-1], ast.Expr):
            tree.body[-1] = ast.parse(f"print({ast.unparse(tree.body[-1].value)})").body[0]
        lines.append(ast.unparse(tree))
    code = "\n".join(lines).replace('"data.num_workers=0"', "'data.num_workers=0'")
    assert "STEPS, QUESTIONS = (2, 4)" in code
    status, output = run_python(["-c", code], tmp_path / "examples")
    assert status == 0, output
    assert "what color is the shape?" in output
    assert "'accuracy'" in output


def instructions():
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    return [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_dockerfile_is_one():
    names = [name for name, _ in instructions()]
    assert set(names) <= set(KNOWN)
    assert names.index("ARG") < names.index("FROM")
    assert names[-1] == "CMD"


def test_the_dockerfile_copies_what_there_is_and_what_is_not_ignored():
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    copied = {name for key, rest in instructions() if key == "COPY" for name in rest.split()[:-1]}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_commands_of_the_dockerfile_work(tmp_path):
    pytest.importorskip("easy_vqa")
    for name in {name for key, rest in instructions() if key == "COPY" for name in rest.split()[:-1]}:
        (tmp_path / name).symlink_to(ROOT / name)
    (run,) = [json.loads(rest) for key, rest in instructions() if key == "CMD"]
    shells = [
        shlex.split(rest.replace("${CONSTRAINTS}", "-c constraints.txt"))
        for key, rest in instructions()
        if key == "RUN"
    ]
    for words in [*shells, [*run, *SHORTER["train"]]]:
        if words[0] == "pip":
            check_install([word for word in words if word != "--no-cache-dir"])
        else:
            status, output = run_python(words[1:], tmp_path)
            assert status == 0, output
    assert list(tmp_path.glob("runs/tiny-stage1/checkpoints/step-*"))
