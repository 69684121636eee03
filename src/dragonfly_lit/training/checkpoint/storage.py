"""The tensors of a checkpoint on disk: written with a checksum of every file, read without running what a file says.

torch pickles the description of the tensors (`.metadata`), and its reader would unpickle whatever that description
calls bytes. Here a description is read as inert records, may hold nothing but tensors, and names no file but its own.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from dragonfly_lit.io import disk

METADATA_FILE = ".metadata"


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not what was written, or never was one.

    Args:
        folder: of the checkpoint.
        reason: what is wrong with it.
    """

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"{folder} is damaged: {reason}. Name another checkpoint of its run, or use resume=auto, which takes the "
            "newest whole one."
        )
        self.folder, self.reason = folder, reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.folder, self.reason)  # it travels between ranks


@dataclass(frozen=True)
class Checksum:
    """What a file must be: its size, and the SHA-256 of its bytes as `sha256sum` prints it."""

    bytes: int
    sha256: str


def checksum(path: Path) -> Checksum:
    """Of a file as it is now, about 2 GB a second."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Checksum(file.tell(), digest)


class SummingWriter(FileSystemWriter):
    """Every rank reads back the files that it wrote and sums them; rank zero's `files` has all sums after the save.

    The sums go the way of torch's own results, so that a rank on which this fails fails the save on every rank.
    """

    files: dict[str, Checksum]

    def write_data(self, *args: Any, **kwargs: Any) -> Future[list[WriteResult]]:
        with disk.naming(Path(self.path)):  # here: what torch wraps an error of the disk in forgets it on its way
            results = super().write_data(*args, **kwargs).wait()
            names = {result.storage_data.relative_path for result in results}
            sums = {name: checksum(Path(self.path) / name) for name in sorted(names)}
        summed: Future[list[WriteResult]] = Future()
        summed.set_result([_Summed.of(result, sums[result.storage_data.relative_path]) for result in results])
        return summed

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        summed = [result for of_rank in results for result in of_rank if isinstance(result, _Summed)]
        self.files = {result.storage_data.relative_path: result.checksum for result in summed}
        with disk.naming(Path(self.path)):
            super().finish(metadata, results)


@dataclass(frozen=True)
class _Summed(WriteResult):
    checksum: Checksum

    @classmethod
    def of(cls, result: WriteResult, checksum: Checksum) -> _Summed:
        return cls(result.index, result.size_in_bytes, result.storage_data, checksum)


class TensorReader(FileSystemReader):
    """Reads a description of tensors and nothing else."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The description, checked against the files beside it.

        Raises:
            DamagedCheckpointError: it cannot be read, holds more than tensors, or the files are not as it says.
        """
        metadata = _read_metadata(Path(self.path))
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class TensorsOnly(DefaultLoadPlanner):
    """A planner that cannot load bytes: torch's unpickles them."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        raise ValueError(f"{read_item.dest_index.fqn} is not a tensor, and nothing else is read from a checkpoint")


def read_tensors(folder: Path, into: dict[str, Tensor]) -> None:
    """Copies the checkpoint's tensors into `into`, in place; each rank reads what its shards need.

    Raises:
        DamagedCheckpointError: they cannot be read.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        try:
            load(into, storage_reader=TensorReader(folder), planner=TensorsOnly(), no_dist=True)
        except CheckpointException as error:
            cause = cause_of(error)
            if isinstance(cause, DamagedCheckpointError | MemoryError | torch.OutOfMemoryError):
                raise cause from error
            reason = f"its tensors cannot be read ({type(cause).__name__}: {_first_line(cause)})"
            raise DamagedCheckpointError(folder, reason) from error


def cause_of(error: CheckpointException) -> BaseException:
    """What went wrong, on the first rank on which something did."""
    return error.failures[min(error.failures)][0]


def described_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Names, shapes and types of the tensors in a checkpoint.

    Raises:
        DamagedCheckpointError: the description cannot be read, or the files are not as it says.
    """
    found: dict[str, Any] = _read_metadata(folder).state_dict_metadata  # of tensors only
    return {name: (entry.size, entry.properties.dtype) for name, entry in found.items()}


def check_archives(folder: Path) -> None:
    """Read every tensor's archive and compare it with the CRC inside: for checkpoints that have no checksums.

    Raises:
        DamagedCheckpointError: names the file.
    """
    for info in _read_metadata(folder).storage_data.values():
        with (folder / info.relative_path).open("rb") as file:
            file.seek(info.offset)
            check_archive(folder, info.relative_path, file.read(info.length))


def check_archive(folder: Path, name: str, content: bytes) -> None:
    """Compare what `torch.save` wrote with the CRCs that it wrote along.

    Raises:
        DamagedCheckpointError: names the file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise DamagedCheckpointError(folder, f"{name} is not as torch writes it ({_first_line(error)})") from error
    if bad is not None:
        raise DamagedCheckpointError(folder, f"bytes of {name} have changed")


class _Entry:
    """What a pickled object of torch's is read as: its fields, and no method of its own."""

    fields: Any = None

    def __setstate__(self, state: Any) -> None:
        self.fields = state

    def field(self, name: str, kind: type) -> Any:
        value = self.fields.get(name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r}")
        return value


class _Tensor(_Entry):
    pass


class _Index(_Entry):
    pass


def _memory_format(value: int) -> int:
    return value


def _member(of: Any, name: str) -> str:
    """A memory format by its name, which is how Python before 3.11.4 writes what an enumeration holds."""
    if of is not _memory_format:
        raise ValueError(
            f"{METADATA_FILE} asks {of!r:.80} for {name!r:.80}, which is not part of a checkpoint: not read"
        )
    return name


_DTYPES = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
_INERT: dict[str, dict[str, Any]] = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata": _Entry,
        "TensorStorageMetadata": _Tensor,
        "TensorProperties": _Entry,
        "ChunkStorageMetadata": _Entry,
        "MetadataIndex": _Index,
        "StorageMeta": _Entry,
        "_MEM_FORMAT_ENCODING": _memory_format,
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo": _Entry},
    "torch.serialization": {"_get_layout": str},
    "torch": {"Size": tuple} | {name: getattr(torch, name) for name in _DTYPES.split()},
    "pathlib": dict.fromkeys(("Path", "PosixPath", "WindowsPath"), lambda *parts: parts),
    "pathlib._local": dict.fromkeys(("Path", "PosixPath", "WindowsPath"), lambda *parts: parts),
    "collections": {"OrderedDict": OrderedDict},
    "builtins": {"getattr": _member},
}
"""What a description may refer to, and what stands for it: nothing of torch's is called or changed."""


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "BytesStorageMetadata":
            raise ValueError(f"{METADATA_FILE} holds something that is not a tensor, which is not read")
        if name not in _INERT.get(module, ()):
            raise ValueError(f"{METADATA_FILE} refers to {module}.{name}, which is not part of a checkpoint: not read")
        return _INERT[module][name]


def _read_metadata(folder: Path) -> Metadata:
    try:
        with (folder / METADATA_FILE).open("rb") as file:
            found = _InertUnpickler(file).load()
        storage = dict(_storage(found, folder))
        tensors = {}
        for name, entry in found.field("state_dict_metadata", dict).items():
            tensors[name] = _tensor(name, entry, storage)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(folder, f"{Path(error.filename).name} is missing") from error
    except OSError:
        raise
    except Exception as error:  # a pickle of a stranger can raise anything
        reason = _first_line(error)
        if type(error) is not ValueError:
            reason = f"{METADATA_FILE} cannot be read ({type(error).__name__}: {reason})"
        raise DamagedCheckpointError(folder, reason) from error
    return Metadata(tensors, storage_data=storage)


def _storage(found: Any, folder: Path) -> Iterator[tuple[MetadataIndex, _StorageInfo]]:
    """Where each chunk lies, in a file of this folder that is long enough."""
    sizes: dict[str, int] = {}
    for index, info in found.field("storage_data", dict).items():
        name, offset, length = (info.field(key, kind) for key, kind in _STORAGE_FIELDS)
        if not isinstance(index, _Index):
            raise TypeError(f"a chunk is called {index!r}")
        if Path(name).name != name or name.startswith("."):
            raise ValueError(f"{METADATA_FILE} names the file {name!r}, which is not one of this checkpoint")
        if info.fields.get("transform_descriptors"):
            raise ValueError(f"{METADATA_FILE} says that {name} is compressed, which is not read")
        if name not in sizes:
            sizes[name] = (folder / name).stat().st_size
        if offset < 0 or length < 0 or offset + length > sizes[name]:
            raise ValueError(f"{name} has {sizes[name]} bytes, but {offset + length} are needed")
        chunk = MetadataIndex(index.field("fqn", str), _numbers(index.fields.get("offset")))
        yield chunk, _StorageInfo(name, offset, length)


_STORAGE_FIELDS = (("relative_path", str), ("offset", int), ("length", int))


def _tensor(name: Any, entry: Any, storage: dict[MetadataIndex, _StorageInfo]) -> TensorStorageMetadata:
    """A tensor whose chunks fill it and are as long on disk as its type needs."""
    if not isinstance(entry, _Tensor) or not isinstance(name, str):
        raise ValueError(f"{METADATA_FILE} holds {str(name)[:80]!r}, which is not a tensor and not read")
    size, dtype = _numbers(entry.fields.get("size")), entry.field("properties", _Entry).fields[0]
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name} is of type {dtype!r}")
    chunks, filled = [], 0
    for chunk in entry.field("chunks", list):
        offsets, sizes = _numbers(chunk.fields.get("offsets")), _numbers(chunk.fields.get("sizes"))
        inside = len(offsets) == len(sizes) == len(size) and all(
            o + s <= whole for o, s, whole in zip(offsets, sizes, size, strict=True)
        )
        if not inside or storage[MetadataIndex(name, offsets)].length < math.prod(sizes) * dtype.itemsize:
            raise ValueError(f"the stored parts of {name} do not fit into it")
        filled += math.prod(sizes)
        chunks.append(ChunkStorageMetadata(offsets, sizes))
    if filled != math.prod(size):
        raise ValueError(f"{name} is not stored as a whole")
    return TensorStorageMetadata(TensorProperties(dtype), size, chunks)


def _numbers(value: Any) -> torch.Size:
    if not isinstance(value, tuple) or not all(type(number) is int and number >= 0 for number in value):
        raise TypeError(f"{value!r} is not a shape")
    return torch.Size(value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")[:300]
