"""Folders of a stranger: transformers reads them, none of their code runs, and what is wrong with them is one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

_WITH_CODE = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_LONGEST = 300


@contextmanager
def foreign(where: str, folder: str | Path | None = None) -> Iterator[None]:
    """Within it, whatever a library raises over a file of the user's becomes a ValueError of one line.

    A file may hold anything, and so may what a library raises over it: KeyError, pickle's and pydantic's own errors,
    Rust's panics, which are not even an Exception. The first error stays the cause.

    Args:
        where: what is read, by its key (`language.path=FOLDER`); starts the line.
        folder: what is looked into for code of its own, which is never run.

    Raises:
        ValueError: something within raised.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())
        if isinstance(error, ValueError) and str(error) == said and said.startswith(where):
            raise  # said by an inner boundary of the same name
        if "trust_remote_code" in said:  # what transformers would have asked for
            asking = _file_with_code(folder) or "a file of it"
            raise ValueError(
                f"{where} wants to run code of its own ({asking} has an auto_map), and no code of a folder is run "
                "here. Use a model of an architecture that transformers has."
            ) from error
        if any(isinstance(cause, pickle.UnpicklingError) for cause in _causes(error)):
            raise ValueError(
                f"{where} holds weights that are not plain tensors (or a damaged file), and no pickled object is "
                "loaded here. Save them again as model.safetensors."
            ) from error
        shown = said if len(said) <= _LONGEST else said[:_LONGEST] + "..."
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        shown = (shown or type(error).__name__).rstrip(".")
        raise ValueError(f"{where} cannot be read: {kind}{shown}. Copy it again, or give another.") from error


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: the file is not JSON, or holds something else.
    """
    with foreign(str(file)):
        fields = json.loads(file.read_bytes())
    if not isinstance(fields, dict):
        raise ValueError(f"{file} holds a JSON {type(fields).__name__}, not an object with keys. Copy it again.")
    return fields


def read_model_config(folder: str | Path, *, where: str) -> PreTrainedConfig:
    """The config of a folder or of a name in the local cache, never the network; by a class that transformers has.

    Args:
        folder: the folder or the name.
        where: starts the line of an error.

    Raises:
        ValueError: there is none, it does not load, or it wants code of its own.
    """
    with foreign(where, folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    refuse_kernels(config, where)
    return config


def read_tokenizer(folder: str | Path, *, where: str, gguf_file: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or of a name in the local cache, as `read_model_config` reads a config.

    Args:
        folder: the folder or the name.
        where: starts the line of an error.
        gguf_file: the file in the folder that holds the tokenizer, in llama.cpp's format.

    Raises:
        ValueError: there is none, it does not load, or it wants code of its own.
    """
    source = {} if gguf_file is None else {"gguf_file": gguf_file}
    with foreign(where, folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **source)


def refuse_kernels(config: PreTrainedConfig, where: str) -> None:
    """ValueError for a config whose attention is a repository: transformers would fetch and run its kernels."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for field in ("_attn_implementation", "_experts_implementation"):
            value = getattr(part, field, None)
            if value is not None and "/" in str(value):
                raise ValueError(
                    f"{where} names {value!r} as its {field.strip('_')}, a repository whose code would be run. Take "
                    "it out of its config.json; `model.attention` chooses the attention here."
                )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _file_with_code(folder: str | Path | None) -> str | None:
    """The first file of a folder that names code of its own, if there is one."""
    for name in _WITH_CODE if folder is not None and Path(folder).is_dir() else ():
        try:
            fields = json.loads((Path(folder) / name).read_bytes())  # pyright: ignore[reportArgumentType]
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(fields, dict) and fields.get("auto_map"):
            return name
    return None
