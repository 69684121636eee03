"""Run folders: `runs/NAME` is always the latest run of that name; an earlier one steps aside to `NAME.1`, `NAME.2`.

Never one in use: whoever trains there holds its lock, as does whoever evaluates into a folder in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import yaml

from dragonfly_lit.io import atomic
from dragonfly_lit.io.lock import LOCK_FILE, in_use_below, locked
from dragonfly_lit.training.ranks import global_rank

CONFIG_FILE = "config.yaml"
RESULT_FILE = "result.json"
"""What a run came to: who has one has ended."""


@contextmanager
def held_run(root: Path, name: str) -> Iterator[ExitStack]:
    """No other process trains a run of this name within the block; rank zero holds the lock.

    Args:
        root: where runs lie.
        name: of the run.

    Yields:
        What holds the lock, for `open_run`.

    Raises:
        ValueError: the folder cannot be written, or another process trains there.
    """
    with ExitStack() as held:
        if global_rank() == 0:
            with _explained(root, root / name):
                held.enter_context(_lock(root / name))
        yield held


def _lock(folder: Path) -> AbstractContextManager[None]:
    return locked(folder, way_out="Wait until it has ended or end it, or give another name=.")


@contextmanager
def _explained(root: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"runs_root={root}: cannot write {folder} ({error.strerror}). Choose another runs_root."
        ) from error


def open_run(root: Path, name: str, config: dict, *, resume: bool, held: ExitStack) -> Path:
    """The folder of this run, made and described by rank zero only, whatever starts the processes.

    Args:
        root: where runs lie.
        name: of this run.
        config: the resolved configuration, written to `config.yaml`.
        resume: whether an earlier run of that name goes on here; otherwise it steps aside.
        held: what `held_run` gave; holds the lock of the new folder too.

    Raises:
        ValueError: the folder cannot be written, or something in the earlier run's folder is in use.
    """
    folder = root / name
    if global_rank() == 0:
        with _explained(root, folder):
            if not resume and _step_aside(folder):
                held.enter_context(_lock(folder))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RESULT_FILE).unlink(missing_ok=True)  # of an end that is one no longer
            atomic.write(folder / CONFIG_FILE, yaml.safe_dump(config, sort_keys=False))
    return folder


def read_config(folder: Path) -> dict:
    """The resolved configuration of a run.

    Raises:
        ValueError: `folder` is not a run.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a run: it has no {CONFIG_FILE}. Give a folder that train.py wrote.")
    try:
        config = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML ({reason}). Copy it again from where the run was trained.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not the configuration of a run. Copy it again from where the run was trained.")
    return config


def _step_aside(folder: Path) -> bool:
    """Whether an earlier run lay there, which now has another name; this process has it locked."""
    if not folder.exists() or all(path.name == LOCK_FILE for path in folder.iterdir()):
        return False
    if (user := in_use_below(folder)) is not None:
        raise ValueError(f"{folder} would step aside for this run, but {user}. Wait for it, or give another name=.")
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)
    (aside / LOCK_FILE).unlink(missing_ok=True)
    print(f"{folder} held an earlier run; it is now {aside}.")
    return True
