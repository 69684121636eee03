"""What differs between operating systems, played on this one."""

import os
import resource
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from dragonfly_lit.data.remote import PART, _is_abandoned
from dragonfly_lit.training.survival import device_memory


def test_windows_is_refused_with_the_way_out():
    code = "import sys; sys.platform = 'win32'; import dragonfly_lit"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert (
        last == "ImportError: dragonfly_lit runs on Linux and macOS. On Windows install it in WSL 2, which is a Linux."
    )


@pytest.mark.parametrize(("platform", "reported"), [("linux", 2**21), ("darwin", 2**31)])
def test_memory_is_in_the_same_unit_everywhere(monkeypatch, platform, reported):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=reported))
    assert device_memory(torch.device("cpu")) == 2**31 / 1e9


def test_what_a_process_that_is_gone_was_downloading_is_abandoned(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    now = time.time()
    names = {"mine": str(os.getpid()), "gone": gone.stdout.decode().strip(), "nobody": "x", "huge": "9" * 30}
    paths = {name: tmp_path / f"{PART}{pid}-abc" for name, pid in names.items()}
    assert not any(_is_abandoned(path, now - 30) for path in paths.values())
    assert [name for name, path in paths.items() if _is_abandoned(path, now - 90)] == ["gone", "nobody", "huge"]
    assert all(_is_abandoned(path, now - 3700) for path in paths.values())
