"""Tensors in files, read one by one straight into the weights they fill.

Memory-mapping would count every page of the file on top of the model, so bytes are read where they are
needed: the peak is the model itself. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig

from dragonfly_lit.io.foreign import foreign, read_json
from dragonfly_lit.models.quantized import quantized_layers, quantized_names

CHUNK_BYTES = 16 * 2**20
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor that lies in a file."""

    key: str
    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    stamp: int
    """When the file was written, in nanoseconds: another file of the same name is refused."""

    def _chunks(self) -> Iterator[Tensor]:
        if self.file.stat().st_mtime_ns != self.stamp:
            raise ValueError(
                f"{self.file} was written again since it was opened; {self.key} is no longer where it was."
            )
        left = prod(self.shape) * self.dtype.itemsize
        buffer = bytearray(min(CHUNK_BYTES, left))
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.offset)
            while left:
                view = memoryview(buffer)[: min(len(buffer), left)]
                if file.readinto(view) != len(view):
                    raise ValueError(f"{self.file} ends inside {self.key}: the file is cut short. Copy it again.")
                left -= len(view)
                yield torch.frombuffer(view, dtype=self.dtype)

    @torch.no_grad()
    def read_into(self, target: Tensor) -> None:
        """Fill a contiguous tensor of the same shape, converting dtype and device on the way."""
        flat, place = target.view(-1), 0
        for chunk in self._chunks():
            flat[place : place + chunk.numel()].copy_(chunk)
            place += chunk.numel()

    def read(self) -> Tensor:
        """The tensor, in its own dtype."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.read_into(tensor)
        return tensor


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a checkpoint folder, by key; safetensors or .bin, in one file or sharded.

    Raises:
        ValueError: there is no checkpoint, a shard is missing, or a shard lacks a key that the index promises.
    """
    for name in _INDEXES:
        if (folder / name).is_file():
            return _sharded(folder, name)
    for name in _SINGLES:
        if (folder / name).is_file():
            return stored_in(folder / name)
    raise ValueError(f"{folder} holds no weights. A checkpoint has one of {', '.join(_SINGLES + _INDEXES)}.")


def _sharded(folder: Path, index: str) -> dict[str, Stored]:
    placed = read_json(folder / index).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(f, str) and Path(f).name == f for f in placed.values()):
        raise ValueError(f"{folder / index} has no weight_map from keys to files beside it. Copy it again.")
    stored: dict[str, Stored] = {}
    for name in sorted(set(placed.values())):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder / name} is missing: {index} says that it holds weights. Copy the whole checkpoint."
            )
        found = stored_in(folder / name)
        if lacking := [key for key, file in placed.items() if file == name and key not in found]:
            raise ValueError(f"{folder / name} lacks {_listed(lacking)}, which {index} says it holds. Copy it again.")
        stored |= found
    return stored


def stored_in(file: Path) -> dict[str, Stored]:
    """Every tensor of one file, by key."""
    return _in_safetensors(file) if file.suffix == ".safetensors" else _in_pickle(file)


def _in_safetensors(file: Path) -> dict[str, Stored]:
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(size))
        header.pop("__metadata__", None)
        stamp = file.stat().st_mtime_ns
        return {
            key: Stored(
                key=key,
                file=file,
                offset=8 + size + int(facts["data_offsets"][0]),
                shape=tuple(map(int, facts["shape"])),
                dtype=_DTYPES[facts["dtype"]],
                stamp=stamp,
            )
            for key, facts in header.items()
        }
    except OSError:
        raise
    except Exception as error:  # a header may hold anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{file} is not a safetensors file ({said:.200}). Copy it again.") from error


def _in_pickle(file: Path) -> dict[str, Stored]:
    # Under a fake mode torch.load reads no data, but notes where in the zip each storage lies.
    with foreign(str(file)), FakeTensorMode():
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise ValueError(f"{file} holds something else than tensors by name. Give the weights of a model.")
    stamp = file.stat().st_mtime_ns
    stored = {}
    for key, tensor in loaded.items():
        offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if offset is None or not tensor.is_contiguous():
            raise ValueError(f"{file} stores {key} in an old or strided form. Save it again with safetensors.")
        stored[key] = Stored(
            key=key,
            file=file,
            offset=offset + tensor.storage_offset() * tensor.element_size(),
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            stamp=stamp,
        )
    return stored


def fill(
    module: nn.Module, stored: Mapping[str, Stored], source: Path | str, given: Mapping[str, Tensor] | None = None
) -> None:
    """Fill every weight of `module` from the tensor stored under its name, each key and shape checked first.

    Args:
        module: a model whose weights are allocated and may hold anything.
        stored: by the names of `module`'s own weights.
        source: where the tensors come from, for the errors.
        given: tensors that do not come from a file, by name.

    Raises:
        ValueError: a key is missing or left over, or a shape differs.
    """
    given = given or {}
    wanted, rounded = check_fits(module, stored, source, given), quantized_layers(module)
    for name, weight in wanted.items():
        if name in rounded:
            rounded[name].fill(stored[name].read())
        else:
            stored[name].read_into(weight.data)
    state = module.state_dict(keep_vars=True)
    for name, tensor in given.items():
        state[name].data.copy_(tensor)


def float_state(module: nn.Module) -> dict[str, Tensor]:
    """Weights and saved buffers by name; a meta tensor of its shape for a weight that is held in few bits."""
    state = module.state_dict(keep_vars=True)
    rounded, held = quantized_layers(module), quantized_names(module)
    kept = {name: tensor for name, tensor in state.items() if name not in held}
    return kept | {name: torch.empty(layer.shape, device="meta") for name, layer in rounded.items()}


def check_fits(
    module: nn.Module, stored: Mapping[str, Stored], source: Path | str, given: Iterable[str] = ()
) -> dict[str, Tensor]:
    """The weights of `module` that the stored tensors fill, a tied one once; `module` may lie on the meta device.

    Args:
        module: the model as its config makes it.
        stored: by the names of `module`'s own weights.
        source: where the tensors come from, for the errors.
        given: names of weights that do not come from a file.

    Raises:
        ValueError: a key is missing or left over, or a shape differs.
    """
    state = float_state(module)
    first_of: dict[int, str] = {}
    aliases = {name for name, weight in state.items() if first_of.setdefault(id(weight), name) != name}
    wanted = {name: weight for name, weight in state.items() if name not in aliases}
    unknown = [stored[name].key for name in stored if name not in state]
    given = set(given)
    missing = [name for name in wanted if name not in stored and name not in given]
    if missing or unknown:
        parts = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has unknown {_listed(unknown)}"] * bool(unknown)
        raise ValueError(
            f"{source} {' and '.join(parts)}. Its config and its weights are not of the same model, "
            "or a file of it was left out."
        )
    wanted = {name: weight for name, weight in wanted.items() if name not in given}
    for name, weight in wanted.items():
        if tuple(weight.shape) != stored[name].shape:
            raise ValueError(
                f"{stored[name].file}: {stored[name].key} has shape {stored[name].shape}, but the config makes it "
                f"{tuple(weight.shape)}. Give the config that belongs to these weights."
            )
    return wanted


def check_size(described: PreTrainedConfig | nn.Module, folder: Path, where: str) -> None:
    """A model far larger than its files is refused before memory is taken for it.

    A config without its sizes describes what transformers takes by default, seven billion weights and more. Quantised
    weights take half a byte at least, so what does load is never refused.

    Args:
        described: a config, whose layers have `hidden_size` weights at least, or the model on the meta device.
        folder: of the weights.
        where: starts the line of an error.

    Raises:
        ValueError: the files hold fewer weights.
    """
    if isinstance(described, nn.Module):
        weights = sum(weight.numel() for weight in described.parameters())
    else:
        layers, width = (getattr(described, name, None) for name in ("num_hidden_layers", "hidden_size"))
        weights = layers * width if isinstance(layers, int) and isinstance(width, int) else 0
    size = sum(file.stat().st_size for file in folder.glob("*") if file.suffix in (".safetensors", ".bin"))
    if weights > 2 * size:
        if not (folder / _SINGLES[0]).is_file() and not (folder / _INDEXES[0]).is_file():
            stored_tensors(folder)  # that there are none, or something else than tensors, is said before
        raise ValueError(
            f"{where} describes a model of {weights:,} weights or more, and its files hold {size:,} bytes. Its "
            "config.json and its weights are not of the same model, or a file was left out."
        )


def _listed(keys: list[str], shown: int = 4) -> str:
    rest = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + rest
