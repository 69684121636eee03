"""What the command line says, before Hydra reads it: spelt as Hydra wants it, and of the type that a key has."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dragonfly_lit.app.rules import MANY, Rule, flag, mapping, number, refuse, whole
from dragonfly_lit.app.spelling import check_spelling
from dragonfly_lit.app.values import rule_of
from dragonfly_lit.io.commands import quoted

CONF = Path(str(files("dragonfly_lit.conf")))
"""The folder of the configuration groups: `conf/` of a clone, or what a wheel brought of it."""

LONGEST_DEFAULT = 200
"""Characters of a default that is shown beside a value of another type."""
OPTIONAL_GROUPS = {"train": ("benchmark", "experiment", "experiment/cell"), "evaluate": ()}


def split_options(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """The folders of `--config-dir` as Hydra's search path wants them, and the arguments without that option."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    given, rest = parser.parse_known_args(list(arguments))
    return ([f"file://{Path(given.config_dir).absolute()}"] if given.config_dir else []), rest


def search_path(arguments: Iterable[str]) -> list[str]:
    """Where the user's own groups lie, `file://FOLDER` or `pkg://MODULE`: `--config-dir`, then `hydra.searchpath`."""
    own, rest = split_options(arguments)
    for item in rest:
        if item.startswith("hydra.searchpath="):
            value = OverridesParser.create().parse_override(item).value()
            own += [str(entry) for entry in value] if isinstance(value, list) else []
    return own


def search_path_of_job() -> list[str]:
    """The same for the Hydra job that runs, whichever process its launcher gave it."""
    sources = HydraConfig.get().runtime.config_sources
    return [source.path for source in sources if source.provider.startswith(("command-line", "hydra.searchpath"))]


def with_search_path(arguments: Iterable[str]) -> list[str]:
    """Overrides for Hydra's compose, which knows no options: what `--config-dir` says as a `hydra.searchpath`."""
    arguments = list(arguments)
    _, rest = split_options(arguments)
    own = search_path(arguments)
    kept = [item for item in rest if not item.startswith("hydra.searchpath=")]
    return [*kept, f"hydra.searchpath={json.dumps(own)}"] if own else kept


def folders(arguments: Iterable[str] = ()) -> list[Path]:
    """The folders in which groups are found, the project's own first; it wins where two have the same file."""
    found = [CONF]
    for place in search_path(arguments):
        if place.startswith("pkg://"):
            module, *inner = place.removeprefix("pkg://").split("/")
            found.append(Path(str(files(module))).joinpath(*inner))
        else:
            found.append(Path(place.removeprefix("file://")))
    return found


def choices(group: str, arguments: Iterable[str] = ()) -> str:
    """The files of a group, as an error names them; what begins with `_` is a base to inherit."""
    paths = (path for folder in folders(arguments) for path in (folder / group).glob("[!_]*.yaml"))
    return ", ".join(sorted({path.stem for path in paths}))


def groups(arguments: Iterable[str] = ()) -> set[str]:
    """The groups that there are, the user's own and nested ones (`experiment/cell`) among them."""
    found = {path.parent.relative_to(top).as_posix() for top in folders(arguments) for path in top.rglob("*.yaml")}
    return found - {"."}


def normalize_overrides(arguments: Sequence[str], config: str) -> list[str]:
    """The arguments as Hydra wants them: numeric choices of a group quoted (`stage=1`), an optional group left out.

    Raises:
        ValueError: a group that a run needs is set to null, a value has characters that mean something to Hydra, or an
            argument is neither a key with its value nor an option of Hydra.
    """
    check_spelling(arguments, config)
    _check_quoting(arguments)
    known = groups(arguments)
    return [_spelled(item, config, known, arguments) for item in arguments]


def _check_quoting(arguments: Sequence[str]) -> None:
    """Refuse what Hydra's grammar does not read, or reads as a list of values: a folder may be called anything."""
    parser, is_sweep = OverridesParser.create(), any(item in ("-m", "--multirun") for item in arguments)
    for item in split_options(arguments)[1]:
        key, equals, value = item.partition("=")
        if not equals or item.startswith("-"):
            continue
        try:
            lists_values = parser.parse_override(item).is_choice_sweep() and not is_sweep
        except HydraException as error:
            raise ValueError(
                f"{item}: Hydra reads some characters of this value as its own. Quote it for the shell and for Hydra: "
                f"{quoted(key, value)}"
            ) from error
        if lists_values:
            raise ValueError(
                f"{item}: a comma stands between the values of a sweep, which -m runs. Quote one value that has a "
                f"comma: {quoted(key, value)}, or give a list: {shlex.quote(f'{key}=[{value}]')}"
            )


def _spelled(override: str, config: str, known: set[str], arguments: Sequence[str]) -> str:
    typed, equals, value = override.partition("=")
    key = typed.lstrip("+")
    if key not in known:
        return override
    if re.fullmatch(r"[\w./-]+(,[\w./-]+)*", value) and value != "null":
        return f"{typed}{equals}" + ",".join(f"'{one}'" if one.isdecimal() else one for one in value.split(","))
    if value == "null" and key in OPTIONAL_GROUPS[config]:
        return f"~{key}"
    if value == "null":
        raise ValueError(f"{override}: {config}.py needs a {key}. Use one of {choices(key, arguments)}.")
    return override


def check_types(arguments: Sequence[str], config: str) -> None:
    """Refuse a value that its key cannot have, in every job of a sweep before the first one starts.

    A key without a rule (`app.values`) is held against the type of its default, if it has one.

    Args:
        arguments: normalised, options of the command line among them.
        config: `train` or `evaluate`.

    Raises:
        ValueError: names the key, the value and what is wanted.
    """
    known = groups(arguments)
    try:
        parsed = OverridesParser.create().parse_overrides(_given(arguments))
        defaults = _composed(config, arguments)
    except (HydraException, OmegaConfBaseException):
        return
    for item in parsed:
        key = item.key_or_group
        if key not in known and not key.startswith("hydra."):
            for value in _values(item):
                _check_type(key, value, _default(defaults, key), rule_of(config, key))


def composed(config: str, arguments: Sequence[str]) -> DictConfig:
    """The configuration with the choices of a command line and none of its values, of a sweep the first choices.

    Where these do not compose it is the one that is composed without any.

    Args:
        config: `train` or `evaluate`.
        arguments: normalised, options of the command line among them.
    """
    try:
        return _composed(config, arguments)
    except (HydraException, OmegaConfBaseException, ValueError):
        return _composed(config, ())


def _composed(config: str, arguments: Sequence[str]) -> DictConfig:
    known, given = groups(arguments), _given(arguments)
    parsed = OverridesParser.create().parse_overrides(given)
    chosen = [f"{item.key_or_group}={_values(item)[0]!r}" for item in parsed if item.key_or_group in known]
    chosen += [item for item in given if item.startswith("hydra.searchpath=")]
    GlobalHydra.instance().clear()  # within a job there is one already
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config, overrides=chosen)


def _given(arguments: Sequence[str]) -> list[str]:
    """The arguments that give a key a value, and neither add nor take one away."""
    return [item for item in with_search_path(arguments) if "=" in item and not item.startswith(("-", "+", "~"))]


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


def _check_type(key: str, value: Any, default: Any, rule: Rule | None) -> None:
    if isinstance(value, str) and "${" in value:
        return
    if rule is None:
        rule = None if value is None else _like(default)
    if rule is not None and not rule.fits(value):
        shown = json.dumps(OmegaConf.to_container(default) if OmegaConf.is_config(default) else default)
        refuse(key, value, rule, f" The default is {shown}." if len(shown) <= LONGEST_DEFAULT else "")


def _like(default: Any) -> Rule | None:
    """What a value must be where all that is known is the default."""
    if isinstance(default, DictConfig):
        return mapping
    if isinstance(default, ListConfig):
        return Rule(("a list, [a, b]",), lambda value: isinstance(value, list))
    if isinstance(default, bool):
        return flag
    if isinstance(default, int):
        return whole(-MANY)
    return number() if isinstance(default, float) else None
