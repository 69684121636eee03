"""A checkpoint on disk: one folder, written by all ranks, that exists under its name only when it is complete.

    step-00000250/checkpoint.json   what it is (CheckpointInfo), readable by eye, and a checksum of every file
    step-00000250/state.pt          loops, callbacks, data position, randomness: plain types, read with weights_only
    step-00000250/*.distcp          tensors by name, each rank its shard (torch.distributed.checkpoint)

Tensors are named after the parameters, so the same folder loads under any strategy and number of ranks. Everything that
reads one checks it first (`verify`), and reads it through `storage`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from dragonfly_lit.io import atomic, disk
from dragonfly_lit.io.atomic import PARTIAL
from dragonfly_lit.training.checkpoint.storage import (
    METADATA_FILE,
    Checksum,
    DamagedCheckpointError,
    SummingWriter,
    cause_of,
    check_archive,
    check_archives,
    checksum,
    described_tensors,
)

FORMAT = 1
ADAMW = "torch.optim.adamw.AdamW"
INFO_FILE, STATE_FILE = "checkpoint.json", "state.pt"
REPLACED = ".replaced"
FILES, CHECKSUM = "files", "checksum"
"""Keys of `checkpoint.json` beside CheckpointInfo's: checksums of the other files, and of itself without this key."""
READERS = 4
"""Files of a checkpoint that are summed at once: about what a disk gives."""


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
    """What the checkpoint in `folder` is; of its other files nothing is read.

    Raises:
        ValueError: it is not a checkpoint, an unfinished or a damaged one, or of another version of this layout.
    """
    return _info_of(_read_fields(folder), folder)


def _read_fields(folder: Path) -> dict[str, Any]:
    path = folder / INFO_FILE
    if folder.name.endswith((PARTIAL, REPLACED)) or not path.is_file() or not (folder / METADATA_FILE).is_file():
        raise ValueError(f"{folder} holds no complete checkpoint. Give a folder runs/NAME/checkpoints/step-N.")
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(folder, f"{INFO_FILE} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise DamagedCheckpointError(folder, f"{INFO_FILE} is not a JSON object")
    if CHECKSUM in fields and fields[CHECKSUM] != _own_checksum(fields):
        raise DamagedCheckpointError(folder, f"{INFO_FILE} is not what was written: its checksum differs")
    return fields


def _info_of(fields: dict[str, Any], folder: Path) -> CheckpointInfo:
    if fields.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has checkpoint format {fields.get('format')}, this version reads {FORMAT}. "
            "Export it with the version that wrote it: python -m dragonfly_lit export."
        )
    known = {entry.name: entry for entry in dataclass_fields(CheckpointInfo)}
    found = {key: value for key, value in fields.items() if key in known}
    for name, entry in known.items():
        if name not in found and entry.default is MISSING and entry.default_factory is MISSING:
            raise DamagedCheckpointError(folder, f"{INFO_FILE} has no {name}")
        if name in found and not _FITS[str(entry.type)](found[name]):
            raise DamagedCheckpointError(folder, f"{INFO_FILE} has {name}={found[name]!r}, which is not {entry.type}")
    return CheckpointInfo(**found)


_FITS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "int": lambda value: type(value) is int and value >= 0,
    "bool": lambda value: isinstance(value, bool),
    "float": lambda value: type(value) in (int, float) and math.isfinite(value),
    "float | None": lambda value: value is None or (type(value) in (int, float) and math.isfinite(value)),
    "dict[str, list[str]]": lambda value: (
        isinstance(value, dict)
        and all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in value.values())
    ),
}
"""Whether a value read from JSON is of a field's type."""


def _own_checksum(fields: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in fields.items() if key != CHECKSUM}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


_verified: dict[Path, Any] = {}
"""By checkpoint, the files that this process has found to be whole, as they were then."""


def verify(folder: Path) -> CheckpointInfo:
    """Compare every file of a checkpoint with what was written, once a process; a few seconds for 10 GB.

    Checkpoints of a version that wrote no checksums are compared with the CRCs that torch writes into its archives.

    Raises:
        ValueError: it is not a checkpoint, a damaged one (`DamagedCheckpointError`: names the file), or of another
            version of this layout.
    """
    fields = _read_fields(folder)
    info = _info_of(fields, folder)
    try:
        if _verified.get(folder.resolve()) != (stamp := _stamp(folder)):
            described_tensors(folder)  # first: it says of a stranger's what it would have run
            if FILES in fields:
                _compare(folder, fields[FILES])
            else:
                check_archive(folder, STATE_FILE, (folder / STATE_FILE).read_bytes())
                check_archives(folder)
            _verified[folder.resolve()] = stamp
    except FileNotFoundError as error:
        raise DamagedCheckpointError(folder, f"{Path(error.filename).name} is missing") from error
    return info


def _stamp(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}


def _compare(folder: Path, files: Any) -> None:
    """Sizes first: they cost nothing."""
    if not isinstance(files, dict) or not {STATE_FILE, METADATA_FILE} <= set(files):
        raise DamagedCheckpointError(folder, f"{INFO_FILE} does not list its files")
    try:
        expected = {name: Checksum(**fields) for name, fields in files.items()}
    except TypeError as error:
        raise DamagedCheckpointError(folder, f"{INFO_FILE} does not list sizes and checksums ({error})") from error
    for name, one in expected.items():
        if (size := (folder / name).stat().st_size) != one.bytes:
            raise DamagedCheckpointError(folder, f"{name} has {size} bytes, {one.bytes} were written")
    with ThreadPoolExecutor(READERS) as pool:
        for (name, one), found in zip(
            expected.items(), pool.map(checksum, [folder / name for name in expected]), strict=True
        ):
            if found != one:
                raise DamagedCheckpointError(folder, f"bytes of {name} have changed since it was written")


def verify_together(folder: Path) -> CheckpointInfo:
    """`verify` by rank zero alone; every rank gets its answer. Every rank must call it alike.

    Raises:
        ValueError: as `verify` says, on every rank.
    """
    answer: list[Any] = [None]
    if _rank() == 0:
        try:
            answer = [verify(folder)]
        except (ValueError, OSError) as error:
            answer = [error]
    if _world_size() > 1:
        dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], BaseException):
        raise answer[0]
    _verified[folder.resolve()] = _stamp(folder)  # no rank reads it all again
    return answer[0]


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
            if _rank() == 0:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                content = io.BytesIO()
                torch.save(dict(state), content)
                atomic.write(partial / STATE_FILE, content.getvalue())

        with _clearing(partial):
            together(prepare)
        fields = asdict(info) | {"saved_at": time.time(), "world_size": _world_size()}
        if info.optimizer == ADAMW:
            del fields["optimizer"]
        writer = SummingWriter(partial, overwrite=True)

        def complete() -> None:
            if _rank() == 0:
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
        if self._group is None and _world_size() > 1:
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
        if _rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, CheckpointException) and isinstance(cause := cause_of(error), Exception):
            raise cause from error
        raise


def _describe(partial: Path, fields: dict[str, Any], files: Mapping[str, Checksum]) -> None:
    """Write `checkpoint.json`, the last file: what the checkpoint is, and a checksum of each of its files."""
    small = {name: checksum(partial / name) for name in (STATE_FILE, METADATA_FILE)}
    fields = fields | {FILES: {name: asdict(one) for name, one in sorted((small | dict(files)).items())}}
    fields = json.loads(json.dumps(fields))  # as it will be read, which is what is summed
    atomic.write(partial / INFO_FILE, json.dumps(fields | {CHECKSUM: _own_checksum(fields)}, indent=1))


def _publish(partial: Path, folder: Path) -> None:
    replaced = folder.with_name(folder.name + REPLACED)
    if folder.exists():
        folder.rename(replaced)
    atomic.publish(partial, folder)
    shutil.rmtree(replaced, ignore_errors=True)


def saved_tensors(folder: Path) -> dict[str, torch.Size]:
    """Names and shapes of the tensors in a checkpoint."""
    return {name: shape for name, (shape, _) in described_tensors(folder).items()}


def read_state(folder: Path) -> dict[str, Any]:
    """Loops, callbacks, data position and randomness of a checkpoint.

    Raises:
        ValueError: it holds more than plain types, or is damaged.
    """
    try:
        found = torch.load(folder / STATE_FILE, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{folder / STATE_FILE} holds more than plain types and tensors, so it is not read: a callback's "
            "state_dict must be plain. Use init_from= for the weights only."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise DamagedCheckpointError(folder, f"{STATE_FILE} cannot be read ({error})") from error
    if not isinstance(found, dict) or not {"loops", "callbacks", "randomness"} <= set(found):
        raise DamagedCheckpointError(folder, f"{STATE_FILE} does not hold the state of a run")
    return found


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


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
    if _world_size() > 1:
        everyone: list[Any] = [None] * _world_size()
        dist.all_gather_object(everyone, errors[0])
        errors = everyone
    for error in errors:
        if error is not None:
            raise error
