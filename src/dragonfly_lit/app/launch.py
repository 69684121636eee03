"""What has started the processes of a run, and how many: `trainer.devices` and `trainer.num_nodes` agree with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

log = logging.getLogger(__name__)

ALL = ("auto", -1, "-1")
"""What stands for every device of a node."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Processes that something else than Lightning has started.

    Attributes:
        name: of what has started them.
        world: all of them.
        local: those of this node; None where nothing says.
        way_out: how it would start another number.
    """

    name: str
    world: int
    local: int | None = None
    way_out: str

    @property
    def nodes(self) -> int | None:
        return None if self.local is None or self.world % self.local else self.world // self.local


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """What has started this process, by its environment; None where nothing did, so that Lightning may."""
    env = os.environ if environment is None else environment
    if (world := _number(env, "WORLD_SIZE")) is not None and "LOCAL_WORLD_SIZE" in env:
        way_out = "torchrun --nnodes NODES --nproc-per-node DEVICES"
        return Launch(name="torchrun", world=world, local=_number(env, "LOCAL_WORLD_SIZE"), way_out=way_out)
    tasks = _number(env, "SLURM_NTASKS")
    # As Lightning looks at it: a shell that SLURM gave starts its processes by itself.
    if world is None and tasks is not None and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        local, nodes = _number(env, "SLURM_NTASKS_PER_NODE"), _number(env, "SLURM_NNODES")
        if local is None and nodes is not None and tasks % nodes == 0:
            local = tasks // nodes
        way_out = "srun with #SBATCH --nodes=NODES --ntasks-per-node=DEVICES"
        return Launch(name="SLURM", world=tasks, local=local, way_out=way_out)
    if world is None and (mpi := _number(env, "OMPI_COMM_WORLD_SIZE") or _number(env, "PMI_SIZE")) is not None:
        return Launch(name="mpirun", world=mpi, way_out="torchrun or srun")
    return None if world is None else Launch(name="WORLD_SIZE", world=world, way_out="torchrun or srun")


def resolve_processes(config: dict[str, Any]) -> None:
    """`trainer.devices` and `trainer.num_nodes` as whole numbers, in place: what they say, or what has started the run.

    Args:
        config: resolved; its values have been checked.

    Raises:
        ValueError: all devices are asked for, and torch finds none.
    """
    trainer, launch = config["trainer"], launched()
    if trainer["num_nodes"] in ALL:
        trainer["num_nodes"] = (launch.nodes if launch else 1) or 1
    if trainer["devices"] not in ALL:
        trainer["devices"] = int(trainer["devices"])
    elif launch is not None:
        trainer["devices"] = launch.local or max(1, launch.world // int(trainer["num_nodes"]))
    elif trainer["accelerator"] == "gpu":
        trainer["devices"] = torch.cuda.device_count()
        if not trainer["devices"]:
            raise ValueError(
                "trainer.devices=auto: torch finds no CUDA device here. Give a number, or use trainer=cpu."
            )
    else:
        trainer["devices"] = 1
    trainer["num_nodes"] = int(trainer["num_nodes"])


def check_processes(config: dict[str, Any], environment: Mapping[str, str] | None = None) -> None:
    """Refuse another number of processes than the configuration speaks of: each would train by itself, in one folder.

    Args:
        config: resolved, `resolve_processes` done.
        environment: of the process; None is its own.

    Raises:
        ValueError: names both numbers and the way out.
    """
    trainer, strategy = config["trainer"], config["strategy"]["name"]
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    env = os.environ if environment is None else environment
    launch = launched(env)
    if launch is not None:
        _check_launch(launch, devices, nodes, single=strategy == "single")
    if (_number(env, "TORCHELASTIC_MAX_RESTARTS") or 0) > 0:
        log.warning(
            "torchrun --max-restarts=%s starts a pre-empted run again at once, on a node that is going. Leave it at 0 "
            "and give the command again with resume=auto.",
            env["TORCHELASTIC_MAX_RESTARTS"],
        )
    if launch is not None and launch.name == "SLURM" and launch.world > 1:
        if "SLURM_NTASKS_PER_NODE" not in env:
            raise ValueError(
                f"SLURM has started {launch.world} tasks by --ntasks, which does not say how they lie on the nodes. "
                f"Use #SBATCH --nodes={nodes} --ntasks-per-node={devices}."
            )
        if not {"SLURM_STEP_ID", "SLURM_STEPID"} & set(env):
            log.warning("SLURM_STEP_ID is not set: without srun in front of python, only one of the tasks has started.")
    if devices * nodes > 1 and strategy == "single":
        raise ValueError(
            f"trainer.devices={devices} on {nodes} nodes with strategy=single. Use strategy=ddp or strategy=fsdp."
        )


def _check_launch(launch: Launch, devices: int, nodes: int, *, single: bool) -> None:
    if launch.name == "mpirun":
        if launch.world > 1:
            raise ValueError(f"mpirun has started {_processes(launch.world)}, which do not meet. Use torchrun or srun.")
        return
    if launch.world != devices * nodes:
        keys = ["trainer.devices=auto"] + ["trainer.num_nodes=auto"] * (launch.nodes != nodes)
        keys += ["strategy=ddp or strategy=fsdp"] * (single and launch.world > 1)
        more = launch.world > devices * nodes
        then = "each would train by itself, in one folder" if more else "the others would not come"
        raise ValueError(
            f"{launch.name} has started {_processes(launch.world)}, but trainer.devices={devices} on trainer.num_nodes="
            f"{nodes} is {devices * nodes}: {then}. Set {' and '.join(keys)}, or start them with {launch.way_out}."
        )
    if launch.local not in (None, devices):
        raise ValueError(
            f"{launch.name} has started {_processes(launch.local or 0)} on each node, but trainer.devices={devices}. "
            f"Set trainer.devices=auto and trainer.num_nodes=auto, or start them with {launch.way_out}."
        )


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count != 1)}"


def _number(env: Mapping[str, str], key: str) -> int | None:
    text = env.get(key, "")
    return int(text) if text.isdecimal() and int(text) > 0 else None
