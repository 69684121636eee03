"""What a command loads before it works, counted in modules: a second of importing is a second for every user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from limits import patient

from data_prep.__main__ import COMMANDS as DATA_COMMANDS
from dragonfly_lit.__main__ import COMMANDS
from dragonfly_lit.io.later import SELDOM_USED, SHARDED

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HEAVY = ("torch", "transformers", "lightning", "torchmetrics", "scipy", "matplotlib", "sympy", "pandas", "webdataset")
ASK_FOR_HELP = """
import contextlib, io, json, sys
from data_prep.__main__ import main as prepare
from dragonfly_lit.__main__ import main as use
from dragonfly_lit.app import cli

heavy, said, loaded = {heavy}, {{}}, {{}}

def ask(name, command):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        command()
    said[name] = out.getvalue()
    loaded[name] = [module for module in heavy if module in sys.modules]

for name in {data}:
    ask(f"data_prep {{name}}", lambda: prepare([name, "--help"]))
for name in {own}:
    ask(f"dragonfly {{name}}", lambda: use([name, "--help"]))
for name in ("train", "evaluate"):
    sys.argv = [f"{{name}}.py", "--help"]
    ask(f"{{name}}.py", getattr(cli, name))
print(json.dumps([said, loaded]))
"""
ASK_SCRIPTS = """
import contextlib, io, json, runpy, sys

said, loaded = {{}}, {{}}
sys.path[:0] = [{folder!r}, {root!r}]
for name in {names}:
    sys.argv = [f"{{name}}.py", "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        if name in {packages}:
            runpy.run_module(f"benchmarks.{{name}}", run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(f"{folder}/{{name}}.py", run_name="__main__")
    said[name] = out.getvalue()
    loaded[name] = [module for module in {heavy} if module in sys.modules]
print(json.dumps([said, loaded]))
"""
MISTYPE = """
import contextlib, io, json, sys
from dragonfly_lit.app import cli

said = {{}}
for key in {keys}:
    sys.argv = ["train.py", "stage=1", f"{{key}}=1"]
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.suppress(SystemExit):
        cli.train()
    said[key] = err.getvalue()
print(json.dumps([said, [module for module in {heavy} if module in sys.modules]]))
"""
IMPORT = """
import json, sys
from dragonfly_lit.io.later import import_quickly
import_quickly("{module}")
print(json.dumps([name for name in {names} if name in sys.modules]))
"""


def output_of(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=patient(300))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_command_loads_torch_to_print_its_help():
    program = ASK_FOR_HELP.format(heavy=HEAVY, data=list(DATA_COMMANDS), own=list(COMMANDS))
    said, loaded = json.loads(output_of(program))
    assert len(said) == len(DATA_COMMANDS) + len(COMMANDS) + 2
    assert all(text.startswith("usage:") for text in said.values()), said
    assert not {name: modules for name, modules in loaded.items() if modules}


def test_a_mistyped_key_is_told_in_one_line_without_torch():
    keys = [
        "trainer.max_steps",
        "trainer.gpus",
        "stage.lr",
        "stage.betas",
        "stage.stepz",
        "logger.kinds",
        "lr",
        "epochs",
    ]
    said, loaded = json.loads(output_of(MISTYPE.format(keys=keys, heavy=HEAVY)))
    assert list(said) == keys
    for key, line in said.items():
        assert line.startswith(f"error: {key} is not a key of this configuration")
        assert line.count("\n") == 1, line
    assert loaded == []


def test_no_benchmark_loads_torch_to_print_its_help():
    packages = sorted(path.parent.name for path in BENCHMARKS.glob("*/__main__.py"))
    names = packages + sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "__init__")
    places = {"folder": str(BENCHMARKS), "root": str(BENCHMARKS.parent)}
    said, loaded = json.loads(output_of(ASK_SCRIPTS.format(heavy=HEAVY, names=names, packages=packages, **places)))
    assert len(said) >= 10
    assert {"gpu", "zoom_ideas"} <= set(packages)
    assert all(text.startswith("usage:") for text in said.values()), said
    assert not {name: modules for name, modules in loaded.items() if modules}


@pytest.mark.parametrize("module", ["dragonfly_lit.app.train", "dragonfly_lit.app.evaluate", "dragonfly_lit.app.load"])
def test_a_command_starts_without_what_it_seldom_uses(module):
    names = (*SELDOM_USED, *SHARDED, "sympy", "mpl_toolkits", "torch._inductor", "pandas")
    assert json.loads(output_of(IMPORT.format(module=module, names=names))) == []


@pytest.mark.parametrize("command", [["-m", "dragonfly_lit", "plan"], ["-m", "data_prep", "mix-plan"]])
def test_what_is_planned_is_printed_without_a_librarys_warnings(tmp_path, command):
    """torchao, which transformers loads where it is installed, warns of itself."""
    words = [sys.executable, *command, "stage=1", "model=dragonfly_v1", "data=general_stage1", "trainer=gpu8"]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=patient(300))
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "torch" not in done.stderr


def test_rows_are_packed_without_torch():
    program = IMPORT.format(module="data_prep.packing", names=HEAVY)
    assert json.loads(output_of(program)) == []
