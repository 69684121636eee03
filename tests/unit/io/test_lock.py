"""One process at a time in a folder, until it ends in whatever way."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from dragonfly_lit.io.lock import LOCK_FILE, FolderInUseError, in_use, in_use_below, locked

HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from dragonfly_lit.io.lock import locked
with locked(Path(sys.argv[1]), way_out="-"):
    if "fork" in sys.argv and os.fork() == 0:
        os.write(1, f"child {os.getpid()}\\n".encode())
        time.sleep(60)
        os._exit(0)
    if "start" in sys.argv:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
        os.write(1, f"child {child.pid}\\n".encode())
    os.write(1, b"held\\n")
    time.sleep(60)
"""


@contextmanager
def holding(folder, *more):
    """A process that holds the lock, and the pids of its children."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    children = []
    try:
        lines = [process.stdout.readline() for _ in range(1 + len(more))]
        assert "held\n" in lines, lines
        children = [int(line.split()[1]) for line in lines if line.startswith("child")]
        yield process, children
    finally:
        process.kill()
        process.wait()
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_the_second_one_is_told_who_holds_it_and_the_way_out(tmp_path):
    folder = tmp_path / "run"
    with holding(folder) as (process, _):
        with pytest.raises(FolderInUseError) as caught, locked(folder, way_out="Give another name=.", patience=0.2):
            pass
        message = str(caught.value)
        assert str(folder) in message
        assert f"process {process.pid} on {os.uname().nodename} since 20" in message
        assert message.endswith("Give another name=.")
        assert "\n" not in message


def test_a_lock_that_is_given_back_leaves_no_file(tmp_path):
    for _ in range(2):
        with locked(tmp_path, way_out="-"):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_made_for_the_lock_goes_if_nothing_is_in_it(tmp_path):
    with locked(tmp_path / "a/b", way_out="-"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a/b", way_out="-"):
        (tmp_path / "a/b/file").write_text("mine")
    assert (tmp_path / "a/b/file").is_file()


@pytest.mark.parametrize("more", [(), ("fork",), ("start",)], ids=["alone", "forked child", "started child"])
def test_a_killed_process_gives_it_back_at_once(tmp_path, more):
    with holding(tmp_path, *more) as (process, children):
        process.kill()
        process.wait()
        for child in children:
            os.kill(child, 0)  # it lives
        with locked(tmp_path, way_out="-", patience=0.0):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_lock_that_is_given_back_while_one_waits_is_taken(tmp_path):
    with holding(tmp_path) as (process, _):
        started = time.monotonic()
        os.kill(process.pid, signal.SIGSTOP)  # a stopped process still holds it
        with pytest.raises(FolderInUseError), locked(tmp_path, way_out="-", patience=0.2):
            pass
        assert time.monotonic() - started >= 0.2
        process.kill()
        with locked(tmp_path, way_out="-", patience=10.0):
            pass


def test_a_lock_moves_with_its_folder_and_the_new_folder_is_free(tmp_path):
    with locked(tmp_path / "a", way_out="-"):
        (tmp_path / "a").rename(tmp_path / "b")
        assert in_use(tmp_path / "a") is None
        assert in_use(tmp_path / "b") is not None
        with locked(tmp_path / "a", way_out="-", patience=0.0):
            pass
    assert in_use(tmp_path / "b") is None


def test_a_folder_that_is_in_use_further_down_is_found(tmp_path):
    with locked(tmp_path / "run/evaluation/x", way_out="-"):
        assert in_use(tmp_path / "run") is None
        assert f"run/evaluation/x is in use by process {os.getpid()}" in str(in_use_below(tmp_path / "run"))
    assert in_use_below(tmp_path / "run") is None


def test_whoever_only_looks_takes_nothing_away(tmp_path):
    (tmp_path / LOCK_FILE).write_text("not json")  # what a kill may leave
    assert in_use(tmp_path) is None
    with holding(tmp_path):
        for _ in range(20):
            assert in_use(tmp_path) is not None
    assert in_use(tmp_path) is None


def test_many_at_once_are_one_after_the_other(tmp_path):
    count = """
import sys
from pathlib import Path
from dragonfly_lit.io.lock import locked
folder = Path(sys.argv[1])
for _ in range(20):
    with locked(folder / "locked", way_out="-", patience=60.0):
        path = folder / "count"
        number = int(path.read_text())
        path.write_text(str(number + 1))
"""
    (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", count, str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "80"


def test_a_file_system_without_locks_is_said_once_and_works(tmp_path, monkeypatch, caplog):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path, way_out="-"):
        pass
    assert len(caplog.records) == 1
    assert "has no locks" in caplog.text


def test_an_error_of_the_disk_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "folder", way_out="-"):
        pass
