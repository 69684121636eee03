"""An error of the disk is one line: the path, the reason, what to do."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dragonfly_lit.io import atomic
from dragonfly_lit.io.disk import REASONS, explain, naming

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@pytest.mark.parametrize("number", DISK)
def test_an_error_without_a_name_gets_the_path(tmp_path, number):
    with pytest.raises(OSError, match="file") as caught, naming(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    line = explain(caught.value, go_on=" Then go on.")
    assert line is not None
    assert line.startswith(f"{tmp_path / 'file'} cannot be ")
    assert REASONS[number][0] in line
    assert line.endswith(f"{REASONS[number][1]}. Then go on.")


@pytest.mark.parametrize("number", DISK)
def test_a_file_that_could_not_be_written_is_as_before_and_named(tmp_path, monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "a.json"
    atomic.write(path, "old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"a\.json") as caught:
        atomic.write(path, "new")
    assert caught.value.errno == number
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_error_behind_a_librarys_own_is_found(tmp_path):
    wrapped = RuntimeError("unexpected pos 64 vs 0")  # as torch's
    wrapped.__context__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as caught, naming(tmp_path / "x"):
        raise wrapped
    assert caught.value.filename == str(tmp_path / "x")
    with pytest.raises(OSError, match="No space left"), naming(tmp_path / "x"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # as safetensors does


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(2, "-", "other"), ConnectionError(104, "reset")])
def test_any_other_error_stays_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, naming(tmp_path / "x"):
        raise error
    assert caught.value is error


def test_a_file_that_is_not_there_is_told_without_a_number():
    with pytest.raises(FileNotFoundError) as caught:
        Path("no/such file").read_bytes()
    assert explain(caught.value) == "no/such file: no such file or directory."
    assert explain(ConnectionError(errno.ECONNRESET, "reset")) is None


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(OSError, match="elsewhere") as caught, naming(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device", "/elsewhere/y")
    assert caught.value.filename == "/elsewhere/y"


def test_a_disk_without_room_for_files_says_so(tmp_path, monkeypatch):
    found = os.statvfs(tmp_path)
    none_left = os.statvfs_result((*found[:5], 1000, 0, 0, *found[8:]))
    monkeypatch.setattr(os, "statvfs", lambda path: none_left)
    line = explain(OSError(errno.ENOSPC, "", str(tmp_path / "not/there")))
    assert line is not None
    assert "0 files are free now). Delete files there." in line


def test_a_kernel_that_refuses_a_longer_file_is_named(tmp_path):
    code = f"""
import resource, torch
from pathlib import Path
from dragonfly_lit.io import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic.write(Path({str(tmp_path)!r}) / "long", b"x" * 2000)
except OSError as error:
    print(error.errno, error.filename)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == [str(errno.EFBIG), str(tmp_path / "long")]
    assert list(tmp_path.iterdir()) == []


def test_what_torch_makes_of_a_full_disk_is_undone(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is Linux's")
    with (
        open("/dev/full", "wb", buffering=0) as file,
        pytest.raises(OSError, match="No space left") as caught,
        naming(tmp_path / "x"),
    ):
        torch.save(torch.zeros(10_000), file)
    assert caught.value.errno == errno.ENOSPC
