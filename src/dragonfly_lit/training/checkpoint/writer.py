"""Writes checkpoints: all ranks together, at choice while training goes on, and whole or not at all."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from dragonfly_lit.io import atomic, disk
from dragonfly_lit.io.atomic import PARTIAL
from dragonfly_lit.training.checkpoint.format import (
    ADAMW,
    CHECKSUM,
    FILES,
    INFO_FILE,
    REPLACED,
    STATE_FILE,
    SUPERVISED,
    CheckpointInfo,
    own_checksum,
)
from dragonfly_lit.training.checkpoint.storage import METADATA_FILE, Checksum, SummingWriter, cause_of, checksum
from dragonfly_lit.training.ranks import rank, world_size


class CheckpointWriter:
    """Writes checkpoints one after the other, at choice while training goes on.

    Every rank must call it alike.
    """

    def __init__(self) -> None:
        self._pending: _Pending | None = None
        self._group: Any = None
        self.on_complete: Callable[[Path], None] = lambda folder: None
        """Called on rank zero with every complete checkpoint, at choice from the writing thread."""
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)

    def save(
        self, folder: Path, tensors: dict[str, Tensor], state: Mapping[str, Any], info: CheckpointInfo, background: bool
    ) -> None:
        """Writes `folder`; it appears under that name when every rank is done.

        Args:
            folder: of the checkpoint.
            tensors: live tensors by name; shards are written by the rank that holds them.
            state: plain types only; rank zero's is written.
            info: description; rank zero's is written.
            background: return once the tensors are copied; `finish` waits for the writing.
        """
        partial = folder.with_name(folder.name + PARTIAL)

        def prepare() -> None:
            self.finish()
            if rank() == 0:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                content = io.BytesIO()
                torch.save(dict(state), content)
                atomic.write(partial / STATE_FILE, content.getvalue())

        with _clearing(partial):
            together(prepare)
        fields = asdict(info) | {"saved_at": time.time(), "world_size": world_size()}
        for name, usual in (("optimizer", ADAMW), ("objective", SUPERVISED)):
            if fields[name] == usual:
                del fields[name]
        writer = SummingWriter(partial, overwrite=True)

        def complete() -> None:
            if rank() == 0:
                _describe(partial, fields, writer.files)
                _publish(partial, folder)
                self.on_complete(folder)

        if background:
            future = async_save(dict(tensors), storage_writer=writer, process_group=self._gloo())
            assert isinstance(future, Future)
            self._pending = _Pending(future, complete, partial)
            return
        with _clearing(partial):
            save(dict(tensors), storage_writer=writer)
            together(complete)

    def finish(self) -> None:
        """Waits until the last checkpoint is complete, and raises what went wrong with it."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.wait()

    def _gloo(self) -> Any:
        """A group of its own, so that writing never meets a collective of the training."""
        if self._group is None and world_size() > 1:
            self._group = dist.new_group(backend="gloo")
        return self._group


class _Pending:
    """A checkpoint that is being written; `then` runs in the writing thread as soon as it is complete."""

    def __init__(self, future: Future, then: Callable[[], None], partial: Path) -> None:
        self._done, self._error, self._then, self._partial = threading.Event(), None, then, partial
        future.add_done_callback(self._finish)

    def _finish(self, future: Future) -> None:
        try:
            with _clearing(self._partial):
                future.result()
                self._then()
        except BaseException as error:  # raised again in the training thread
            self._error = error
        self._done.set()

    def wait(self) -> None:
        self._done.wait()
        if self._error is not None:
            raise self._error


@contextmanager
def _clearing(partial: Path) -> Iterator[None]:
    """What could not be written is taken away, so that its space is free; torch's errors become those behind them."""
    try:
        with disk.naming(partial):
            yield
    except BaseException as error:
        if rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, CheckpointException) and isinstance(cause := cause_of(error), Exception):
            raise cause from error
        raise


def _describe(partial: Path, fields: dict[str, Any], files: Mapping[str, Checksum]) -> None:
    """Write `checkpoint.json`, the last file: what the checkpoint is, and a checksum of each of its files."""
    small = {name: checksum(partial / name) for name in (STATE_FILE, METADATA_FILE)}
    fields = fields | {FILES: {name: asdict(one) for name, one in sorted((small | dict(files)).items())}}
    fields = json.loads(json.dumps(fields))  # as it will be read, which is what is summed
    atomic.write(partial / INFO_FILE, json.dumps(fields | {CHECKSUM: own_checksum(fields)}, indent=1))


def _publish(partial: Path, folder: Path) -> None:
    replaced = folder.with_name(folder.name + REPLACED)
    if folder.exists():
        folder.rename(replaced)
    atomic.publish(partial, folder)
    shutil.rmtree(replaced, ignore_errors=True)


def together(step: Callable[[], None]) -> None:
    """Do `step` on every rank; where one fails, every rank raises its error, instead of waiting for it elsewhere.

    Args:
        step: without a collective in it.
    """
    errors: list[Exception | None] = [None]
    try:
        step()
    except Exception as error:
        errors[0] = error
    if world_size() > 1:
        everyone: list[Any] = [None] * world_size()
        dist.all_gather_object(everyone, errors[0])
        errors = everyone
    for error in errors:
        if error is not None:
            raise error
