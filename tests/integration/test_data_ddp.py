"""A training process is killed and another one, of other ranks and workers, reads on exactly where it stood."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import ArgumentParser
from io import BytesIO
from pathlib import Path

import pytest
import torch
import webdataset
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from limits import patient
from PIL import Image

from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.models.tiny import NUM_WORDS, tiny_tokenizer
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.records import Batch, Record, Turn
from dragonfly_lit.spec.shard import record_to_json

TESTS = str(Path(__file__).parents[1])
TOTAL = 24
"""Micro-batches of all ranks together."""


class Words(LightningModule):
    """The smallest model that DDP has gradients to reduce for."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(NUM_WORDS, 4)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return self.words(batch.input_ids).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Diary(Callback):
    """Writes what each rank was given, then kills the run without a warning at step `kill`."""

    def __init__(self, path: Path, kill: int):
        self.path, self.kill = path, kill

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        with self.path.open("a") as file:
            line = {"step": trainer.global_step, "rank": trainer.global_rank, "keys": batch.keys}
            file.write(json.dumps(line | {"ids": int(batch.input_ids.sum())}) + "\n")
        if trainer.global_step == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)


def write_source(folder: Path, name: str, count: int, images: int) -> str:
    folder.mkdir(parents=True)
    picture = BytesIO()
    Image.new("RGB", (12, 12), "red").save(picture, "JPEG")
    with webdataset.ShardWriter(str(folder / "%02d.tar"), maxcount=30, verbose=0) as writer:  # type: ignore[attr-defined]
        for number in range(count):
            turns = (
                Turn(role="user", text=f"{number}?", num_images=images),
                Turn(role="assistant", text="a" * (1 + number % 9)),
            )
            record = Record(key=f"{name}{number}", source=name, turns=turns, images=(picture.getvalue(),) * images)
            writer.write(
                {"__key__": record.key, "json": record_to_json(record)}
                | ({"jpg": picture.getvalue()} if images else {})
            )
    return str(folder)


def train(folder: Path, diary: Path, ranks: int, workers: int, kill: int, ckpt: str | None) -> None:
    layout = Layout(image_size=16, patch_size=8, class_token=False, zoom=Zoom(medium=False, high=False, top_k=None))
    data = DragonflyDataModule(
        train={"sources": {n: {"path": str(folder / n), "weight": w} for n, w in (("pic", 0.7), ("text", 0.3))}},
        builder=SequenceBuilder(tokenizer=tiny_tokenizer(), layout=layout, max_tokens=100),
        pad_id=0,
        batch={"mode": "packed", "max_tokens": 200, "buffer": 5},
        epoch={"samples": 120},
        num_workers=workers,
        num_streams=8,
        block=4,
        window=16,
    )
    saved = 0 if ckpt is None else torch.load(ckpt, weights_only=True)["DragonflyDataModule"]["micro_batches"]
    done = 0 if ckpt is None else torch.load(ckpt, weights_only=True)["global_step"]
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        logger=False,
        max_steps=done + (TOTAL - saved) // ranks,
        max_epochs=-1,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[
            Diary(diary, kill),
            ModelCheckpoint(dirpath=folder / "saved", filename="{step}", every_n_train_steps=4, save_top_k=-1),
        ],
    )
    trainer.fit(Words(), datamodule=data, ckpt_path=ckpt, weights_only=True)


def entries(diary: Path) -> list[dict]:
    """Entries in global order: by step, then by rank."""
    found = [json.loads(line) for line in diary.read_text().splitlines()]
    return sorted(found, key=lambda entry: (entry["step"], entry["rank"]))


def launch(folder: Path, diary: Path, ranks: int, workers: int, kill: int = -1, ckpt: Path | None = None) -> int:
    arguments = [folder, diary, ranks, workers, kill, *([ckpt] if ckpt else [])]
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(
        command, timeout=patient(300), env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": TESTS}, check=False
    ).returncode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("ddp")
    write_source(folder / "pic", "pic", 90, images=1)
    write_source(folder / "text", "text", 45, images=0)
    train(folder, folder / "whole.jsonl", ranks=1, workers=0, kill=-1, ckpt=None)
    return folder, [(entry["keys"], entry["ids"]) for entry in entries(folder / "whole.jsonl")]


@pytest.mark.parametrize(("before", "after"), [((2, 2), (1, 4)), pytest.param((1, 1), (2, 1), marks=pytest.mark.slow)])
def test_a_killed_run_resumes_under_other_ranks_and_workers(uninterrupted, tmp_path, before, after):
    folder, whole = uninterrupted
    for name in ("pic", "text"):
        (tmp_path / name).symlink_to(folder / name)
    assert launch(tmp_path, tmp_path / "first.jsonl", *before, kill=6) != 0
    steps, saved = 4, tmp_path / "saved" / "step=4.ckpt"
    assert launch(tmp_path, tmp_path / "rest.jsonl", *after, ckpt=saved) == 0
    first = [entry for entry in entries(tmp_path / "first.jsonl") if entry["step"] < steps]
    given = [(entry["keys"], entry["ids"]) for entry in [*first, *entries(tmp_path / "rest.jsonl")]]
    assert len(given) == TOTAL
    assert given == whole


if __name__ == "__main__":
    parser = ArgumentParser()
    for name, kind in (("folder", Path), ("diary", Path), ("ranks", int), ("workers", int), ("kill", int)):
        parser.add_argument(name, type=kind)
    parser.add_argument("ckpt", nargs="?")
    train(**vars(parser.parse_args()))
