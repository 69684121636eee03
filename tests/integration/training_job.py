"""A small training run of the tiny model, in this process or in several, for the tests of training."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from limits import patient
from PIL import Image

from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.batches import collate, pack
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Batch, Sample, Turn
from dragonfly_lit.training.checkpoint.callback import Checkpoints
from dragonfly_lit.training.module import TrainingModule
from dragonfly_lit.training.network import named_weights
from dragonfly_lit.training.stages import Group, Stage
from dragonfly_lit.training.strategies import Ddp, Fsdp, Single

ALL = (
    Group(match="projector.*", lr=1e-2),
    Group(match="vision.*", lr=1e-3, from_step=3),
    Group(match="language.*", lr=2e-3, until_step=5),
)
"""A tower that thaws at step 3 and a language model that freezes again at step 5."""
PROJECTOR = (Group(match="projector.*", lr=1e-2),)
STRATEGIES = {"single": Single, "ddp": Ddp, "fsdp": Fsdp}


def image_of(i: int) -> tuple[Image.Image, ...]:
    """Of one of three colours; none for every fifth."""
    colour = [0, 0, 0]
    colour[i % 3] = 200 + i % 50
    return () if i % 5 == 4 else (Image.new("RGB", (40 + 7 * (i % 4), 48), tuple(colour)),)


def samples(count: int) -> list[Sample]:
    """Images of one colour with a question about it; every fifth sample has no image."""
    words = ("red", "green", "blue")
    found = []
    for i in range(count):
        image = image_of(i)
        turns = (
            Turn(role="user", text="colour?", num_images=len(image)),
            Turn(role="assistant", text=words[i % 3] * (1 + i % 2)),
        )
        found.append(Sample(key=f"sample-{i}", source="colours" if image else "words", turns=turns, images=image))
    return found


def micro_batches(count: int, rows: int = 2, packed: bool = False) -> list[Batch]:
    """`count` batches of `rows` samples each, in one row each if packed."""
    return batched(samples(count * rows), rows, packed=packed)


def batched(drawn: list[Sample], rows: int, *, packed: bool = False) -> list[Batch]:
    """Batches of `rows` of these samples each, in one row each if packed."""
    tokenizer = tiny_tokenizer()
    builder = SequenceBuilder(tokenizer=tokenizer, layout=tiny_model().layout, max_tokens=400)
    sequences = [builder.build(sample) for sample in drawn]
    groups = [sequences[i : i + rows] for i in range(0, len(sequences), rows)]
    pad = tokenizer.pad_token_id
    return [collate([pack(group)] if packed else group, pad_id=pad) for group in groups]


class Stream:
    """Every rank's share of a list of micro-batches, dealt out in turn, with a position that is saved."""

    def __init__(self, batches: list[Batch], rank: int, world: int) -> None:
        self.batches, self.position, self.world = batches[rank::world], 0, world

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        while self.position < len(self.batches):
            self.position += 1
            yield self.batches[self.position - 1]
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position * self.world}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"] // self.world


def run(
    folder: Path | str,
    *,
    strategy: str = "single",
    strategy_options: dict[str, Any] | None = None,
    world: int = 1,
    groups: tuple[Group, ...] = ALL,
    stage_name: str = "2",
    steps: int = 8,
    accumulate: int = 1,
    clip: float = 0.05,
    stage: dict[str, Any] | None = None,
    batches: list[Batch] | None = None,
    num_batches: int = 10,
    rows: int = 2,
    validates: bool = False,
    every: int = 100,
    save: dict[str, Any] | None = None,
    resume: Path | None = None,
    callbacks: tuple[pl.Callback, ...] = (),
    model: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **module: Any,
) -> dict[str, Any]:
    """Trains, and returns the final weights, losses, gradient norms and types of weights and rotary frequencies."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plan = Stage(
        name=stage_name, steps=steps, groups=groups, accumulate=accumulate, clip=clip, warmup=2, **(stage or {})
    )
    factories = dict.fromkeys(("model_factory", "skeleton_factory"), lambda: tiny_model(**(model or {})).to(dtype))
    lightning_module = TrainingModule(stage=plan, **factories | module)
    losses = _Losses()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=STRATEGIES[strategy](**(strategy_options or {})),
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=1 if validates else None,
        callbacks=[losses, *callbacks, Checkpoints(folder, every=every, **(save or {}))],
    )
    rank = int(os.environ.get("RANK", 0))
    found = batches or micro_batches(num_batches, rows)
    held_out = Stream(found[:6], rank, world) if validates else None
    trainer.fit(lightning_module, Stream(found, rank, world), held_out, ckpt_path=resume, weights_only=True)
    trained = lightning_module.trained_weights()  # first: it gives gathered shards back
    held = named_weights(lightning_module.model)
    weights = held | trained
    return {
        "losses": losses.losses,
        "norms": losses.norms,
        "step": trainer.global_step,
        "weights": {name: _full(p) for name, p in weights.items()},
        "trained": {str(p.dtype) for p in trained.values()},
        "held": {str(p.dtype) for p in held.values()},
        "frozen": {str(p.dtype) for p in weights.values() if not p.requires_grad},
        "rotary": {str(b.dtype) for name, b in lightning_module.model.named_buffers() if "inv_freq" in name},
    }


def _full(tensor: torch.Tensor) -> torch.Tensor:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().clone()


class _Losses(pl.Callback):
    def __init__(self) -> None:
        self.losses, self.norms = [], []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        for report in pl_module.reports:
            self.losses.append(report.loss)
            self.norms.append(report.grad_norm)


def run_ranks(world: int, folder: Path, jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`run` for each of `jobs`, in turn, by the same `world` processes over gloo; the results of rank zero.

    A job's folder is `folder/its name`; its `resume` is a path below `folder`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_job"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = context.Queue()
    arguments = (world, port, queue, folder, jobs)
    processes = [context.Process(target=_rank, args=(rank, *arguments), daemon=True) for rank in range(world)]
    for process in processes:
        process.start()
    outcome = queue.get(timeout=patient(240))
    for process in processes:
        process.join(timeout=patient(60))
    assert all(process.exitcode == 0 for process in processes), outcome
    return torch.load(folder / "results.pt", weights_only=False)


def _rank(rank: int, world: int, port: int, queue: Any, folder: Path, jobs: dict[str, dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "GROUP_RANK": "0",
    }
    results = {}
    try:
        for name, job in jobs.items():
            arguments = dict(job)
            if "resume" in arguments:
                arguments["resume"] = folder / arguments["resume"]
            results[name] = run(folder / name, world=world, **arguments)
    except BaseException as error:
        queue.put(f"rank {rank}: {type(error).__name__}: {error}")
        raise
    if rank == 0:
        torch.save(results, folder / "results.pt")
        queue.put("done")


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Between the final weights of two runs."""
    assert one["weights"].keys() == other["weights"].keys()
    return max(float((one["weights"][name] - w).abs().max()) for name, w in other["weights"].items())
