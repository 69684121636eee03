"""What stands on the command line, before Hydra reads it: spelt as Hydra wants it, and of the type that a key has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONF = Path(str(files("dragonfly_lit.conf")))
"""The folder of the configuration groups: `conf/` of a clone, or what a wheel brought of it."""

OPTIONAL_GROUPS = {"train": ("benchmark", "cell", "experiment"), "evaluate": ()}


def choices(group: str) -> str:
    """The files of a group, as an error names them."""
    return ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


def groups() -> set[str]:
    """The groups that there are."""
    return {path.name for path in CONF.iterdir() if path.is_dir()}


def normalize_overrides(overrides: Iterable[str], config: str) -> list[str]:
    """The overrides as Hydra wants them: numeric choices of a group quoted (`stage=1`), an optional group left out.

    Raises:
        ValueError: a group that a run needs is set to null.
    """
    return [_spelled(override, config, groups()) for override in overrides]


def _spelled(override: str, config: str, known: set[str]) -> str:
    key, equals, value = override.partition("=")
    if key not in known:
        return override
    if re.fullmatch(r"\d+(,\d+)*", value):
        return f"{key}{equals}" + ",".join(f"'{choice}'" for choice in value.split(","))
    if value == "null" and key in OPTIONAL_GROUPS[config]:
        return f"~{key}"
    if value == "null":
        raise ValueError(f"{override}: {config}.py needs a {key}. Use one of {choices(key)}.")
    return override


def check_types(overrides: Iterable[str], config: str) -> None:
    """Refuse a text where the configuration has a number, and the like; everything else is left to Hydra.

    A key whose default is null has no type to hold a value against.

    Args:
        overrides: spelt, options of the command line among them.
        config: `train` or `evaluate`.

    Raises:
        ValueError: names the key, the value and what is wanted.
    """
    given = [item for item in overrides if "=" in item and not item.startswith(("-", "+", "~"))]
    try:
        parsed = OverridesParser.create().parse_overrides(given)
        chosen = [f"{item.key_or_group}={_values(item)[0]!r}" for item in parsed if item.key_or_group in groups()]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            defaults = compose(config, overrides=chosen)
    except (HydraException, OmegaConfBaseException):
        return
    for item in parsed:
        key = item.key_or_group
        if key not in groups():
            for value in _values(item):
                _check_type(key, value, _default(defaults, key))


def _values(item: Override) -> list[Any]:
    """The value of an override, or the choices of a sweep; a sweep over an interval has none to look at."""
    if not item.is_sweep_override():
        return [item.value()]
    return list(item.sweep_iterator()) if item.is_choice_sweep() else []


def _default(defaults: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(defaults, key)
    except OmegaConfBaseException:
        return None


def _check_type(key: str, value: Any, default: Any) -> None:
    if value is None or default is None or (isinstance(value, str) and "${" in value):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    wanted = None
    if isinstance(default, bool):
        wanted = None if isinstance(value, bool) else "true or false"
    elif isinstance(default, int):
        wanted = None if number and value == int(value) else "a whole number"
    elif isinstance(default, float):
        wanted = None if number else "a number"
    elif isinstance(default, DictConfig):
        wanted = None if isinstance(value, dict) else "a mapping, {key: value}"
    elif isinstance(default, ListConfig):
        wanted = None if isinstance(value, list) else "a list, [a, b]"
    if wanted is not None:
        shown = OmegaConf.to_container(default) if isinstance(default, DictConfig | ListConfig) else default
        raise ValueError(f"{key}={value} is not {wanted}. The default is {json.dumps(shown)}.")
