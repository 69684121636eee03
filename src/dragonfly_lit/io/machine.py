"""What a process may use of the machine: processors by affinity, cgroup and SLURM, and how they are dealt out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAX_READERS = 8
"""Processes that read for a GPU unless somebody says otherwise."""


def usable_cpus(environ: Mapping[str, str] = os.environ, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that this process may use: the least of its affinity, its cgroup's quota and its share of a SLURM job.

    Args:
        environ: the environment; `SLURM_CPUS_PER_TASK` is looked at.
        cgroup: where the quota of a container or of a job is mounted.
    """
    # Not every system tells the affinity.
    found = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    if environ.get("SLURM_CPUS_PER_TASK", "").isdecimal():
        found.append(int(environ["SLURM_CPUS_PER_TASK"]))
    found += [quota for folder in _cgroups(cgroup) if (quota := _quota(folder)) is not None]
    return max(1, min(found))


def _cgroups(mounted: Path) -> list[Path]:
    """The folders of this process's cgroup and of those that it lies in; a container sees its own as the root."""
    inside = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "cpu", "cpu,cpuacct"):
                whole = mounted / (controllers and "cpu") / path.strip("/")
                inside += [folder for folder in (whole, *whole.parents) if mounted in (folder, *folder.parents)]
    return list(dict.fromkeys([*inside, mounted, mounted / "cpu"]))


def _quota(folder: Path) -> int | None:
    """Whole processors that a cgroup may use, by its version 2 or 1; None without a limit."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    with suppress(OSError, ValueError):
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return None if quota < 0 else max(1, quota // period)
    return None


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process of a run uses.

    Attributes:
        cpus: that it may use.
        threads: that compute.
        readers: processes that read for it.
    """

    cpus: int
    threads: int
    readers: int

    @classmethod
    def of(cls, processes: int, *, on_gpu: bool, environ: Mapping[str, str] = os.environ) -> Share:
        """The share of each of `processes` on this machine.

        A GPU is read for by all processors but one. On a CPU one process reads, since computing takes longer by far;
        where there is one processor, the computing process reads by itself.

        Args:
            processes: of the run on this machine.
            on_gpu: whether they compute on GPUs.
            environ: the environment; where SLURM started a task a process, the processors are that task's already.
        """
        cpus = usable_cpus(environ)
        if not int(environ.get("SLURM_NTASKS") or 1) > 1:
            cpus = max(1, cpus // processes)
        readers = min(MAX_READERS, max(1, cpus - 1)) if on_gpu else min(1, cpus - 1)
        return cls(cpus=cpus, threads=cpus, readers=readers)
