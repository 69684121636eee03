"""How arguments are written, before Hydra reads them: KEY=VALUE, without dashes or spaces."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from dragonfly_lit.app.moved import USUAL

HYDRA_OPTIONS = (
    "--cfg", "--config-dir", "--config-name", "--config-path", "--experimental-rerun", "--help", "--hydra-help",
    "--info", "--multirun", "--package", "--resolve", "--run", "--shell-completion", "--version",
)  # fmt: skip
"""What Hydra takes with dashes; all else is a key, and has none."""
SHORT_OPTIONS = ("-c", "-cd", "-cn", "-cp", "-h", "-i", "-m", "-p", "-r", "-sc")
WITH_A_VALUE = (
    "--cfg", "--config-dir", "--config-name", "--config-path", "--experimental-rerun", "--info", "--package", "-c",
    "-cd", "-cn", "-cp", "-i", "-p",
)  # fmt: skip
"""Options behind which a word stands that is not a key."""


def check_spelling(arguments: Sequence[str], config: str) -> None:
    """Refuse what is neither a key with its value nor an option of Hydra.

    Args:
        arguments: of the command line.
        config: `train` or `evaluate`.

    Raises:
        ValueError: repeats the argument and says how it is written.
    """
    is_value = False
    for place, item in enumerate(arguments):
        later = [*arguments[place + 1 :], "", ""]
        if is_value:
            is_value = False
        elif item.startswith("-") and _is_option(item):
            is_value = item in WITH_A_VALUE and "=" not in later[0]
        elif item.startswith("-"):
            word = item.lstrip("-").replace("-", "_")
            way_out = written(word, config, later[0]) or "Use KEY=VALUE, such as stage=1."
            raise ValueError(f"{item}: a key has no dashes, and = before its value. {way_out}")
        elif not item.startswith("~"):
            _check_argument(item, later, config)


def _is_option(item: str) -> bool:
    name = item.partition("=")[0].replace("_", "-")
    return name in SHORT_OPTIONS or (item.startswith("--") and any(option.startswith(name) for option in HYDRA_OPTIONS))


def _check_argument(item: str, later: Sequence[str], config: str) -> None:
    key, equals, value = item.partition("=")
    if not equals:
        following = later[1] if later[0] == "=" else later[0]
        way_out = written(item, config, following) or "Use KEY=VALUE, such as stage=1."
        raise ValueError(f"{item} stands alone, without a value. {way_out}")
    if not key.lstrip("+"):
        raise ValueError(f"{item}: there is no key in front of the =. Use KEY=VALUE without spaces, such as stage=1.")
    if not value and later[0] and "=" not in later[0] and not later[0].startswith(("-", "~")):
        raise ValueError(f"{item} {later[0]}: no space stands behind the =. Use {shlex.quote(item + later[0])}.")
    if value.startswith("="):
        raise ValueError(f"{item}: one = is enough. Use {shlex.quote(f'{key}{value}')}.")
    if dotted := re.fullmatch(r"(.*[\w.])\[(\d+)\](.*)", key):
        way_out = shlex.quote(f"{dotted[1]}.{dotted[2]}{dotted[3]}={value}")
        raise ValueError(f"{item}: a part of a list is named behind a dot. Use {way_out}.")


def written(word: str, config: str, following: str = "") -> str:
    """What is typed instead of a word without its value, or with dashes; empty where nothing is known of it.

    Args:
        word: as it was typed, without its dashes.
        config: `train` or `evaluate`.
        following: the argument behind it, which may be its value.
    """
    key, _, value = word.replace(":", "=", 1).partition("=")
    value = value or ("" if "=" in following or following.startswith("-") else following)
    if (hint := usual(key, value, config)) is not None:
        return f"{hint[:1].upper()}{hint[1:]}"
    return f"Use {shlex.quote(f'{key}={value}')}." if value and re.fullmatch(r"[\w./@]+", key) else ""


def usual(key: str, value: str | None, config: str) -> str | None:
    """What a key of other programs is here, with its full stop; None where that is not known.

    Args:
        key: with dots; its last name counts, but for callbacks and loggers, which have names of their own.
        value: what it was given, if that is known.
        config: `train` or `evaluate`.
    """
    hint = USUAL[config].get(key.split(".")[-1].lower())
    if hint is None or key.startswith(("callbacks.", "logger.")):
        return None
    return (re.sub(r"=N\b", lambda _: f"={value}", hint) if value else hint) + "."
