"""A disk that refuses a checkpoint ends the run in one line; what was there stays, and the run can go on."""

import errno
import os
import subprocess
import sys

import pytest
from limits import patient
from training_job import PROJECTOR, largest_difference, run

from dragonfly_lit.io.disk import explain
from dragonfly_lit.training.checkpoint import storage
from dragonfly_lit.training.checkpoint.locate import find_resume, step_folder

JOB = {"groups": PROJECTOR, "steps": 4, "every": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), **JOB)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("file", ["state.pt", "distcp", "checkpoint.json", "step-00000004.partial"])
def test_a_refused_checkpoint_is_taken_away_and_the_run_goes_on(whole, tmp_path, monkeypatch, number, background, file):
    fsync = os.fsync

    def refuse(descriptor):
        written = os.readlink(f"/proc/self/fd/{descriptor}")
        if "step-00000004.partial" in written and (file in os.path.basename(written) or file == "state.pt"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="step-00000004") as caught:
        run(tmp_path, save={"background": background}, **JOB)
    line = explain(caught.value)
    assert line is not None
    assert str(tmp_path / "checkpoints" / "step-00000004") in line
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    resumed = run(tmp_path, resume=find_resume(tmp_path), **JOB)
    assert largest_difference(whole, resumed) == 0.0
    assert find_resume(tmp_path) == step_folder(tmp_path, 4)


def test_a_file_that_is_too_long_for_the_limit_is_named(tmp_path):
    """The kernel's own error, through torch's writer, which makes another one of it."""
    code = f"""
import resource, sys
sys.path[:0] = {[os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]!r}
from training_job import PROJECTOR, run
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    run({str(tmp_path)!r}, groups=PROJECTOR, steps=1)
except OSError as error:
    print(error.errno, error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(errno.EFBIG), f"{step_folder(tmp_path, 1)}.partial"], done.stderr
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_is_read_back_is_what_was_written(tmp_path, monkeypatch):
    """A disk that fails while the sums are taken fails the checkpoint."""

    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(storage, "checksum", fail)
    with pytest.raises(OSError, match=r"step-00000001\.partial"):
        run(tmp_path, groups=PROJECTOR, steps=1)


def test_readers_of_an_epoch_that_an_error_ended_do_not_outlive_it():
    """The exception keeps the half-read epoch, as a traceback does, until the interpreter ends."""
    code = """
import sys
from dragonfly_lit.io.later import import_quickly
make_loader = import_quickly("dragonfly_lit.data.loader").make_loader
class Numbers(list):
    pass
iterator = iter(make_loader(Numbers(range(1000)), 2, False))
next(iterator)
sys.modules["kept"] = iterator
iterator._shutdown_workers = lambda: None
raise ValueError("an error of the disk")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=patient(200), check=False
    )
    assert done.returncode == 1
    assert "an error of the disk" in done.stderr
