"""A checkpoint on disk: one folder, written by all ranks, that exists under its name only when it is complete.

    step-00000250/checkpoint.json   what it is (CheckpointInfo), readable by eye, and a checksum of every file
    step-00000250/state.pt          loops, callbacks, data position, randomness: plain types, read with weights_only
    step-00000250/*.distcp          tensors by name, each rank its shard (torch.distributed.checkpoint)

Tensors are named after the parameters, so the same folder loads under any strategy and number of ranks. Everything that
reads one checks it first (`verify`), and reads it through `storage`; `writer` writes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dragonfly_lit.io.atomic import PARTIAL
from dragonfly_lit.training.checkpoint.storage import (
    METADATA_FILE,
    Checksum,
    DamagedCheckpointError,
    check_archive,
    check_archives,
    checksum,
    described_tensors,
)
from dragonfly_lit.training.ranks import rank, world_size

FORMAT = 1
ADAMW = "torch.optim.adamw.AdamW"
SUPERVISED = "dragonfly_lit.training.objectives.Supervised"
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
        quantize: how the language model's linear layers were held, which are left out; None is as floats.
        optimizer: class whose state it holds; AdamW is not written, as in checkpoints that knew no other.
        objective: class of what is lowered; the supervised one is likewise not written.
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
    quantize: str | None = None
    optimizer: str = ADAMW
    objective: str = SUPERVISED
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
    if CHECKSUM in fields and fields[CHECKSUM] != own_checksum(fields):
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


def own_checksum(fields: Mapping[str, Any]) -> str:
    """Of `checkpoint.json` itself, without this key."""
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
    if rank() == 0:
        try:
            answer = [verify(folder)]
        except (ValueError, OSError) as error:
            answer = [error]
    if world_size() > 1:
        dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], BaseException):
        raise answer[0]
    _verified[folder.resolve()] = _stamp(folder)  # no rank reads it all again
    return answer[0]


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
