"""A checkpoint on disk: one folder, written by all ranks, that exists under its name only when it is complete.

    step-00000250/checkpoint.json   what it is (CheckpointInfo), readable by eye
    step-00000250/state.pt          loops, callbacks, data position, randomness: plain types, read with weights_only
    step-00000250/*.distcp          tensors by name, each rank its shard (torch.distributed.checkpoint)

Tensors are named after the parameters, so the same folder loads under any strategy and number of ranks.
"""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from dragonfly_lit.io import atomic
from dragonfly_lit.io.atomic import PARTIAL

FORMAT = 1
ADAMW = "torch.optim.adamw.AdamW"
INFO_FILE, STATE_FILE, METADATA_FILE = "checkpoint.json", "state.pt", ".metadata"
REPLACED = ".replaced"

_METADATA_GLOBALS = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "WindowsPath"},
    "collections": {"OrderedDict"},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint is.

    Attributes:
        stage: name of the stage that wrote it.
        model: name of the model.
        step: optimizer steps done.
        steps: optimizer steps of the stage.
        groups: names of the weights of each optimizer group.
        trainable_only: whether frozen weights were left out.
        init_from: where the run's weights came from, for those left out.
        lora_scale: of the adapters in it; None without.
        optimizer: class whose state it holds; AdamW is not written, as in checkpoints that knew no other.
        world_size: ranks that wrote it.
        saved_at: seconds since 1970.
        format: version of this layout.
    """

    stage: str
    model: str
    step: int
    steps: int
    groups: dict[str, list[str]] = field(default_factory=dict)
    trainable_only: bool = False
    init_from: str | None = None
    lora_scale: float | None = None
    optimizer: str = ADAMW
    world_size: int = 1
    saved_at: float = 0.0
    format: int = FORMAT


def read_info(folder: Path) -> CheckpointInfo:
    """What the checkpoint in `folder` is.

    Raises:
        ValueError: it is not a checkpoint, an unfinished one, or of another version of this layout.
    """
    path = folder / INFO_FILE
    if folder.name.endswith((PARTIAL, REPLACED)) or not path.is_file() or not (folder / METADATA_FILE).is_file():
        raise ValueError(f"{folder} holds no complete checkpoint. Give a folder runs/NAME/checkpoints/step-N.")
    fields = json.loads(path.read_text())
    if fields.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has checkpoint format {fields.get('format')}, this version reads {FORMAT}. "
            "Export it with the version that wrote it: python -m dragonfly_lit export."
        )
    known = {entry.name for entry in dataclass_fields(CheckpointInfo)}
    return CheckpointInfo(**{key: value for key, value in fields.items() if key in known})


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
        self.finish()
        partial = folder.with_name(folder.name + PARTIAL)
        if _rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            torch.save(dict(state), partial / STATE_FILE)
            fields = asdict(info) | {"saved_at": time.time(), "world_size": _world_size()}
            if info.optimizer == ADAMW:
                del fields["optimizer"]
            (partial / INFO_FILE).write_text(json.dumps(fields, indent=1))
        _barrier()
        writer = FileSystemWriter(partial, overwrite=True)
        if background:
            future = async_save(dict(tensors), storage_writer=writer, process_group=self._gloo())
            assert isinstance(future, Future)
            self._pending = _Pending(future, lambda: self._complete(partial, folder))
            return
        save(dict(tensors), storage_writer=writer)
        self._complete(partial, folder)
        _barrier()

    def finish(self) -> None:
        """Waits until the last checkpoint is complete, and raises what went wrong with it."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.wait()

    def _complete(self, partial: Path, folder: Path) -> None:
        if _rank() == 0:
            _publish(partial, folder)
            self.on_complete(folder)

    def _gloo(self) -> Any:
        """A group of its own, so that writing never meets a collective of the training."""
        if self._group is None and _world_size() > 1:
            self._group = dist.new_group(backend="gloo")
        return self._group


class _Pending:
    """A checkpoint that is being written; `then` runs in the writing thread as soon as it is complete."""

    def __init__(self, future: Future, then: Callable[[], None]) -> None:
        self._done, self._error, self._then = threading.Event(), None, then
        future.add_done_callback(self._finish)

    def _finish(self, future: Future) -> None:
        try:
            future.result()
            self._then()
        except BaseException as error:  # raised again in the training thread
            self._error = error
        self._done.set()

    def wait(self) -> None:
        self._done.wait()
        if self._error is not None:
            raise self._error


def _publish(partial: Path, folder: Path) -> None:
    replaced = folder.with_name(folder.name + REPLACED)
    if folder.exists():
        folder.rename(replaced)
    atomic.publish(partial, folder)
    shutil.rmtree(replaced, ignore_errors=True)


def saved_tensors(folder: Path) -> dict[str, torch.Size]:
    """Names and shapes of the tensors in a checkpoint."""
    return {name: shape for name, (shape, _) in described_tensors(folder).items()}


def described_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Names, shapes and types of the tensors in a checkpoint."""
    metadata: Any = SafeReader(folder).read_metadata()  # of tensors only; torch's type allows more
    return {name: (entry.size, entry.properties.dtype) for name, entry in metadata.state_dict_metadata.items()}


def read_tensors(folder: Path, into: dict[str, Tensor]) -> None:
    """Copies the checkpoint's tensors into `into`, in place; each rank reads what its shards need."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load(into, storage_reader=SafeReader(folder), no_dist=True)


def read_state(folder: Path) -> dict[str, Any]:
    """Loops, callbacks, data position and randomness of a checkpoint.

    Raises:
        ValueError: it holds more than plain types.
    """
    try:
        return torch.load(folder / STATE_FILE, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{folder / STATE_FILE} holds more than plain types and tensors, so it is not read: a callback's "
            "state_dict must be plain. Use init_from= for the weights only."
        ) from error


class SafeReader(FileSystemReader):
    """Reads `.metadata` without running what a stranger may have pickled into it."""

    def read_metadata(self, *args: Any, **kwargs: Any):
        with open(Path(self.path) / METADATA_FILE, "rb") as file:
            _MetadataUnpickler(file).load()
        return super().read_metadata(*args, **kwargs)


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if name not in _METADATA_GLOBALS.get(module, ()):
            raise ValueError(f"{METADATA_FILE} refers to {module}.{name}, which is not part of a checkpoint: not read.")
        return super().find_class(module, name)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _barrier() -> None:
    if _world_size() > 1:
        dist.barrier()
