"""Processors that a process may use, and how a run deals them out."""

from __future__ import annotations

import os

import pytest

from dragonfly_lit.io.machine import Share, usable_cpus


@pytest.fixture
def many(monkeypatch):
    """A machine whose affinity is 64 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)


@pytest.mark.parametrize(
    ("written", "cpus"), [("max 100000", 64), ("400000 100000", 4), ("50000 100000", 1), ("6400000 100000", 64)]
)
def test_a_containers_quota_counts(many, tmp_path, written, cpus):
    (tmp_path / "cpu.max").write_text(written)
    assert usable_cpus({}, tmp_path) == cpus


def test_a_quota_of_the_first_version_counts(many, tmp_path):
    (tmp_path / "cpu").mkdir()
    for name, value in (("quota", "250000"), ("period", "100000")):
        (tmp_path / "cpu" / f"cpu.cfs_{name}_us").write_text(value)
    assert usable_cpus({}, tmp_path) == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    assert usable_cpus({}, tmp_path) == 64


def test_a_task_of_slurm_has_what_slurm_gave_it(many, tmp_path):
    assert usable_cpus({"SLURM_CPUS_PER_TASK": "12"}, tmp_path) == 12
    assert usable_cpus({"SLURM_CPUS_PER_TASK": "96"}, tmp_path) == 64


@pytest.mark.parametrize(
    ("cpus", "processes", "on_gpu", "environ", "share"),
    [
        (1, 1, False, {}, (1, 1, 0)),
        (2, 1, False, {}, (2, 2, 1)),
        (64, 2, False, {}, (32, 32, 1)),
        (64, 8, True, {}, (8, 8, 7)),
        (64, 1, True, {}, (64, 64, 8)),
        (1, 1, True, {}, (1, 1, 1)),
        (64, 8, True, {"SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "6"}, (6, 6, 5)),  # a task a process
        (64, 8, True, {"SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "48"}, (6, 6, 5)),  # torchrun within one task
    ],
)
def test_processors_are_dealt_out(monkeypatch, tmp_path, cpus, processes, on_gpu, environ, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)), raising=False)
    monkeypatch.setattr(usable_cpus, "__defaults__", (os.environ, tmp_path))
    found = Share.of(processes, on_gpu=on_gpu, environ=environ)
    assert (found.cpus, found.threads, found.readers) == share
