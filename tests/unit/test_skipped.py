"""A run of the tests says at its end what it left out and how to have it run."""

import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest

def test_passes(): pass
def test_of_fp8(): pytest.importorskip("torchao_is_not_here")
@pytest.mark.parametrize("n", [1, 2])
def test_of_sweeps(n): pytest.importorskip("hydra_plugins.not_here")
def test_of_a_browser(): pytest.skip("there is no Chromium on this machine")
"""


def test_the_last_lines_say_what_was_skipped_and_the_way_out(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    lines = done.stdout.splitlines()
    start = lines.index("4 were skipped:")
    assert lines[start + 1 : start + 5] == [
        "  2 x hydra_plugins is not installed: pip install 'dragonfly_lit[sweep]'",
        "  1 x there is no Chromium on this machine",
        "  1 x torchao_is_not_here is not installed: pip install -e '.[dev]' -c constraints.txt",
        "Slow tests are left to `pytest -m slow`, tests of a GPU to `pytest -m gpu`.",
    ]
