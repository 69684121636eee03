"""Lightning's strategies for one process, DDP and FSDP2, with checkpoints that any of them can read."""

from __future__ import annotations

import atexit
from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from dragonfly_lit.training.checkpoint.format import read_state, verify_together
from dragonfly_lit.training.checkpoint.locate import AVERAGES, OPTIMIZER
from dragonfly_lit.training.checkpoint.storage import described_tensors, read_tensors
from dragonfly_lit.training.checkpoint.writer import CheckpointWriter
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.optimizer import load_plain_state, make_room, plain_state
from dragonfly_lit.training.peers import Peers
from dragonfly_lit.training.precision import sharding_policy
from dragonfly_lit.training.sending import Sender
from dragonfly_lit.training.sharding import checkpoint_activations, compile_blocks, leave_uncompiled, shard


class NamedCheckpoints:
    """What the strategies share: a checkpoint holds tensors by name, and the model is built on the CPU, once.

    Mixed in before one of Lightning's strategies.
    """

    writer: CheckpointWriter
    activation_checkpointing: str | Mapping[str, str]
    peers: Peers | None = None
    """The processes of the run, which meet before torch's group does."""

    def _prepare(self, activation_checkpointing: str | Mapping[str, str]) -> None:
        self.writer = CheckpointWriter()
        self.activation_checkpointing = activation_checkpointing

    reads_weights = True
    """Whether this process reads the weights from files; else it is sent them, and builds a model without."""
    holds_half = True
    """Whether under bf16 the model holds its weights in bfloat16, with masters beside it."""

    def arrange(self, network: TrainingNetwork, module: Any) -> None:
        """Makes of a built network what `module` trains: activation checkpointing, compiling, sharding."""
        checkpoint_activations(network.model, self.activation_checkpointing)
        device: torch.device = self.root_device  # type: ignore[attr-defined]
        compile_blocks(network.model, module.compile_mode, device, hooked=not self.holds_half)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        return False

    @contextmanager
    def tensor_init_context(self, empty_init: bool | None = None) -> Generator[None, None, None]:
        yield

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {}  # tensors are taken by name in `save_checkpoint`

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return plain_state(optimizer)  # likewise, but for what is not a tensor

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        pass  # `load_checkpoint` has copied the tensors

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        pass

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Writes the folder `filepath`.

        Args:
            checkpoint: Lightning's states.
            filepath: of the checkpoint.
            storage_options: `background` and `trainable_only`, both False without.
        """
        options = {"background": False, "trainable_only": False} | (storage_options or {})
        module: Any = self.lightning_module  # type: ignore[attr-defined]
        folder = Path(self.broadcast(str(filepath)))  # type: ignore[attr-defined]
        self.writer.save(
            folder,
            module.checkpoint_tensors(options["trainable_only"]),
            checkpoint,
            module.checkpoint_info(options["trainable_only"]),
            options["background"],
        )

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Weights and optimizer state into the live tensors; the rest is returned for Lightning.

        Raises:
            ValueError: the checkpoint is damaged, or of another stage, model or set of weights.
        """
        folder = Path(checkpoint_path)
        module: Any = self.lightning_module  # type: ignore[attr-defined]
        info = verify_together(folder)
        module.check_resume(info, folder)
        module.init_from = module.init_from or info.init_from  # for the checkpoints of this run
        saved = described_tensors(folder)
        state = {n.removeprefix(OPTIMIZER): entry for n, entry in saved.items() if n.startswith(OPTIMIZER)}
        make_room(module.optimizer, state)
        tensors = module.checkpoint_tensors(info.trainable_only)
        averaged = any(name.startswith(AVERAGES) for name in saved)
        read_tensors(folder, {n: t for n, t in tensors.items() if averaged or not n.startswith(AVERAGES)})
        if averaged and module.averages is None:
            rank_zero_warn(f"{folder} holds averaged weights, and no callback of this run goes on with them.")
        module.publish_weights()
        found = read_state(folder)
        for plain in found.get("optimizer_states", ()):
            load_plain_state(module.optimizer, plain)
        return found

    def teardown(self) -> None:
        self.writer.finish()
        super().teardown()  # type: ignore[misc]
        module: Any = self.lightning_module  # type: ignore[attr-defined]
        if module is not None and module.network is not None:
            leave_uncompiled(module.model)
            if module.masters is not None:
                module.masters.to("cpu")  # where Lightning has put the model
            if module.reference is not None:
                module.reference.to("cpu")


class Single(NamedCheckpoints, SingleDeviceStrategy):
    """One process on one device.

    Args:
        device: the Trainer's accelerator (`cpu`, `gpu`, `auto`) or a device such as `cuda:1`.
        activation_checkpointing: none, selective, full or offload, or one of them for each part by its name.
    """

    def __init__(self, device: str = "cpu", activation_checkpointing: str | Mapping[str, str] = "none") -> None:
        if device in ("gpu", "auto"):
            best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            device = "cpu" if best is None else best.type if best.type == "mps" else f"{best.type}:0"
        super().__init__(device=device)
        self._prepare(activation_checkpointing)


class SeveralProcesses(NamedCheckpoints):
    """What the strategies of several processes share: how they meet, and that the first one reads the weights."""

    @property
    def reads_weights(self) -> bool:
        return self.global_rank == 0  # type: ignore[attr-defined]

    def sender(self, network: TrainingNetwork) -> Sender | None:
        """What gives every rank the weights of the first one; None where that one is alone."""
        return Sender(network, self.root_device) if self.world_size > 1 else None  # type: ignore[attr-defined]

    def setup_environment(self) -> None:
        if self.peers is not None:
            self.peers.join()
        super().setup_environment()  # type: ignore[misc]
        if self.root_device.type == "cuda":  # type: ignore[attr-defined]
            atexit.register(_leave)  # Lightning does it for nccl alone

    def _get_process_group_backend(self) -> str:
        # Objects go over the CPU, where they need not wait for what the GPU computes, and so do checkpoints in the
        # background, which torch refuses to write where the CPU has no backend.
        on_gpu = self.root_device.type == "cuda"  # type: ignore[attr-defined]
        return "cpu:gloo,cuda:nccl" if on_gpu else super()._get_process_group_backend()  # type: ignore[misc]


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class Ddp(SeveralProcesses, DDPStrategy):
    """Every rank holds every weight; gradients are summed in float32. The choice while the language model is frozen.

    Args:
        activation_checkpointing: none, selective, full or offload, or one of them for each part by its name.
        bucket_mb: size of one reduction.
    """

    def __init__(
        self, activation_checkpointing: str | Mapping[str, str] = "none", bucket_mb: int = 25, **lightning: Any
    ):
        super().__init__(gradient_as_bucket_view=True, broadcast_buffers=False, bucket_cap_mb=bucket_mb, **lightning)
        self.bucket_mb = bucket_mb
        self._prepare(activation_checkpointing)

    def arrange(self, network: TrainingNetwork, module: Any) -> None:
        super().arrange(network, module)
        if (send := self.sender(network)) is not None:
            send(network)

    def configure_ddp(self) -> None:
        module: Any = self.lightning_module
        if not module.holds_half:
            super().configure_ddp()  # else gradients are added up by the masters


class Fsdp(SeveralProcesses, ModelParallelStrategy):
    """Weights, gradients and optimizer state sharded over all ranks, block by block (FSDP2).

    Args:
        activation_checkpointing: none, selective, full or offload, or one of them for each part by its name.
        reshard: give back a block's gathered weights after its forward; False saves a gather and costs memory.
        offload: keep shards and optimizer state in CPU memory.
        replicate: times that every shard is held: weights are gathered within a node where this is the number of nodes,
            and only sums of gradients go between them.
        reduce: sum gradients over ranks after `every` micro-batch, or after the `last` of an optimizer step (fewer
            bytes, but each rank holds all gradients meanwhile).
    """

    holds_half = False  # shards are the masters

    def __init__(
        self,
        activation_checkpointing: str | Mapping[str, str] = "none",
        reshard: bool = True,
        offload: bool = False,
        reduce: str = "every",
        replicate: int = 1,
        **lightning: Any,
    ) -> None:
        super().__init__(**lightning)
        if reduce not in ("every", "last"):
            raise ValueError(f"strategy.reduce={reduce} is unknown. Use every or last.")
        self.reshard, self.offload, self.reduce_last_only = reshard, offload, reduce == "last"
        self.replicate = replicate
        self._states: list[tuple[Optimizer, Any]] = []
        self._prepare(activation_checkpointing)

    def setup_environment(self) -> None:
        check_replicate(self.replicate, self.num_nodes * self.num_processes)
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def arrange(self, network: TrainingNetwork, module: Any) -> None:
        super().arrange(network, module)
        policy = sharding_policy(module.precision, module.gradients)
        mesh = self.device_mesh["data_parallel"]
        if self.replicate > 1:
            mesh = init_device_mesh(
                self.root_device.type,
                (self.replicate, self.world_size // self.replicate),
                mesh_dim_names=("replicate", "shard"),
            )
        before = self.sender(network)
        shard(network, mesh, policy=policy, reshard=self.reshard, offload=self.offload, before=before)
        network.sharded = True

    def setup(self, trainer: pl.Trainer) -> None:
        super().setup(trainer)
        for optimizer, state in self._states:
            optimizer.state = state
        self._states.clear()

    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        super().setup_optimizers(trainer)
        if self.offload:  # Lightning would move the state to the device now; it stays with its shards
            self._states = [(optimizer, optimizer.state) for optimizer in self.optimizers]
            for optimizer in self.optimizers:
                optimizer.state = defaultdict(dict)

    def model_to_device(self) -> None:
        if not self.offload:
            super().model_to_device()
            return
        assert self.model is not None
        for buffer in self.model.buffers():  # shards stay in CPU memory
            buffer.data = buffer.data.to(self.root_device)


def check_replicate(replicate: int, ranks: int) -> None:
    """Refuses shards that cannot be repeated so often.

    Raises:
        ValueError: the number of times does not divide that of the ranks.
    """
    if replicate < 1 or ranks % replicate:
        raise ValueError(
            f"strategy.replicate={replicate} does not divide the {ranks} processes of the run. Use the number of nodes "
            "(trainer.num_nodes), or 1 to hold every shard once."
        )
