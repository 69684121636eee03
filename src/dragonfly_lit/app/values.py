"""The values of a configuration are held against the table of its keys before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from dragonfly_lit.app.keys import MAY_BE_NULL, RULES
from dragonfly_lit.app.rules import Rule, mapping, refuse

Config = dict[str, Any]
OWN = "dragonfly_lit."
SPREAD = ("experiment",)
"""Groups whose files set keys of others: Hydra puts what has no `@package _global_` below a key that nobody reads."""


def rule_of(config: str, key: str) -> Rule | None:
    """The rule of a key of `train` or `evaluate`; None where there is none, as for a part of the user's own."""
    place = _place_of(config, key)
    return None if place is None else _compiled(config)[place][1]


def check_values(config: Config, name: str) -> None:
    """Refuse a value that its key cannot have; a whole number written as 1e3 becomes one, in place.

    The keys of a part of the user's own (below a `_target_` that is not this project's) are left to the part.

    Args:
        config: resolved.
        name: `train` or `evaluate`.

    Raises:
        ValueError: names the key, the value and what is wanted.
    """
    for group in SPREAD:
        if keys := config.get(group):
            raise ValueError(
                f"{group}: the file that was chosen would change nothing: its keys ({', '.join(map(str, keys))}) came "
                f"to lie below {group}. Write `# @package _global_` as its first line."
            )
    for node in dict.fromkeys(parent for key in RULES[name] for parent in _parents(key)):
        value = _find(config, node.split("."))
        if value is not _MISSING and not (isinstance(value, Mapping) or (value is None and node in MAY_BE_NULL)):
            if node != "stage.groups":
                refuse(node, value, mapping)
            elif not (isinstance(value, list) and all(isinstance(item, Mapping) for item in value)):
                refuse(node, value, Rule(("a list of groups, [{match: ..., lr: ...}]",), bool))
    found = [(place, key, where) for key, where in leaves(config, name) if (place := _place_of(name, key)) is not None]
    # In the table's order: a key comes before those that take its value.
    for place, key, (holder, last) in sorted(found, key=lambda entry: entry[:2]):
        rule = _compiled(name)[place][1]
        if not rule.fits(holder[last]):
            refuse(key, holder[last], rule)
        if isinstance(holder[last], float) and rule.alternatives[0].startswith("a whole number"):
            holder[last] = int(holder[last])


def leaves(node: Any, config: str, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Every key with a rule or without keys below it, with where its value is held.

    Args:
        node: plain.
        config: `train` or `evaluate`.
        prefix: the node's own key and a dot.
    """
    if isinstance(node, dict) and not str(node.get("_target_", OWN)).startswith(OWN):
        return  # a part of somebody else's
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in items:
        key = f"{prefix}{name}"
        has_keys = value and isinstance(value[0] if isinstance(value, list) else value, dict)
        if has_keys and rule_of(config, key) is None:
            yield from leaves(value, config, f"{key}.")
        elif name != "_target_":
            yield key, (node, name)


@cache
def _place_of(config: str, key: str) -> int | None:
    return next((n for n, (pattern, _) in enumerate(_compiled(config)) if pattern.fullmatch(key)), None)


@cache
def _compiled(config: str) -> list[tuple[re.Pattern[str], Rule]]:
    def compiled(pattern: str) -> re.Pattern[str]:
        text = re.escape(pattern).replace(r"\*\*", r"(?:sources\.[^.]+\.)*").replace(r"\*", r"[^.]+")
        return re.compile(text)

    return [(compiled(pattern), rule) for pattern, rule in RULES[config].items()]


def _parents(pattern: str) -> Iterator[str]:
    """The nodes above a key, as far as they have names: `data` and `data.train` of `data.train.**path`."""
    names = pattern.split("*")[0].rstrip(".").split(".")
    upper = names if "*" in pattern else names[:-1]
    for length in range(1, len(upper) + 1):
        yield ".".join(upper[:length])


_MISSING = object()


def _find(node: Any, names: list[str]) -> Any:
    for name in names:
        if not isinstance(node, Mapping) or name not in node:
            return _MISSING
        node = node[name]
    return node
