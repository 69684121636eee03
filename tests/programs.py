"""Python programs run in a folder as a shell would, without paying the imports each time."""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

from limits import patient

ROOT = Path(__file__).resolve().parents[1]
IMPORTED_ONCE = [
    "dragonfly_lit.app.cli",
    "dragonfly_lit.app.train",
    "dragonfly_lit.app.evaluate",
    "dragonfly_lit.app.ask",
]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(IMPORTED_ONCE)


def run_python(words: list[str], folder: Path) -> tuple[int, str]:
    """Exit status and output of `SCRIPT ...`, `-m MODULE ...`, `-c CODE` or an entry point of the project."""
    out = folder / f".output-{time.monotonic_ns()}"
    process = _PROCESSES.Process(target=_child, args=(words, str(folder), str(out)))
    process.start()
    process.join(patient(120))
    if process.is_alive():
        process.kill()
        process.join()
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", out.read_text())
    out.unlink()
    return process.exitcode or 0, text


def _child(words: list[str], folder: str, out: str) -> None:
    """Becomes the program: its folder, output, arguments and path."""
    os.chdir(folder)
    file = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "COLUMNS": "120"}
    first, *rest = words
    if first in SCRIPTS:
        module, _, function = SCRIPTS[first].partition(":")
        sys.argv = words
        sys.exit(getattr(import_module(module), function)())
    if first == "-m":
        sys.path.insert(0, folder)
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c"]
        exec(compile(rest[0], "<block>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")
