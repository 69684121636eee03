"""Run folders: `runs/NAME` is always the latest run of that name; an earlier one steps aside to `NAME.1`, `NAME.2`."""

from __future__ import annotations

from pathlib import Path

import yaml

from dragonfly_lit.training.ranks import global_rank

CONFIG_FILE = "config.yaml"


def open_run(root: Path, name: str, config: dict, *, resume: bool) -> Path:
    """The folder of this run, made and described by rank zero only, whatever starts the processes.

    Args:
        root: where runs lie.
        name: of this run.
        config: the resolved configuration, written to `config.yaml`.
        resume: whether an earlier run of that name goes on here; otherwise it steps aside.

    Raises:
        ValueError: the folder cannot be written.
    """
    folder = root / name
    if global_rank() == 0:
        try:
            if not resume:
                _step_aside(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False))
        except OSError as error:
            raise ValueError(
                f"runs_root={root}: cannot write {folder} ({error.strerror}). Choose another runs_root."
            ) from error
    return folder


def read_config(folder: Path) -> dict:
    """The resolved configuration of a run.

    Raises:
        ValueError: `folder` is not a run.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a run: it has no {CONFIG_FILE}. Give a folder that train.py wrote.")
    return yaml.safe_load(path.read_text())


def _step_aside(folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)
    print(f"{folder} held an earlier run; it is now {aside}.")
