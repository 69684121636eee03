"""The keys that there are, of the choices that were taken and of others, and which of them a mistyped one may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from dragonfly_lit.app.keys import RULES
from dragonfly_lit.app.overrides import folders
from dragonfly_lit.app.values import rule_of

NEAR = 0.6
"""How alike two keys are at least, of 1, for one to be suggested for the other."""
NEARLY_AS_NEAR = 0.15
"""What lies so much below the nearest one is not suggested beside it."""
SLIP = 0.8
"""How alike two are where one is taken for the other."""
SUGGESTED = 3


def of_config(cfg: DictConfig, *, nodes: bool) -> list[str]:
    """Every key of a configuration, with dots; a part's `_target_` is left out.

    Args:
        cfg: composed.
        nodes: with the keys that hold others, beside those that hold a value.
    """
    return [key for key, node in _walk(cfg) if nodes or node is None]


def _walk(cfg: DictConfig | ListConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig | ListConfig | None]]:
    """Every key, with what holds the keys below it, if there are any."""
    names = range(len(cfg)) if isinstance(cfg, ListConfig) else list(cfg)
    for name in names:
        node: Any = cfg._get_node(name)  # type: ignore[arg-type]
        has_keys = OmegaConf.is_config(node) and not node._is_none() and not node._is_interpolation()
        if name != "_target_" and (has_keys or not isinstance(cfg, ListConfig)):
            yield f"{prefix}{name}", node if has_keys else None
        if has_keys:
            yield from _walk(node, f"{prefix}{name}.")


def of_choices(arguments: Iterable[str] = ()) -> dict[str, dict[str, list[str]]]:
    """The keys of all choices of all groups: by key the groups, and of each the choices that have it.

    Files that set keys of other groups are left out.

    Args:
        arguments: of the command line; its `--config-dir` and `hydra.searchpath` bring further choices.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for top in folders(arguments):
        for path in sorted(top.glob("*/**/[!_]*.yaml")):
            group = path.parent.relative_to(top).as_posix()
            for key in _of_file(path, group):
                names = found.setdefault(key, {}).setdefault(group, [])
                if path.stem not in names:
                    names.append(path.stem)
    return found


@cache
def _of_file(path: Path, group: str) -> set[str]:
    """The keys that a choice brings where its group lies, those of the files of its folder that it builds on too."""
    if not path.is_file():
        return set()
    text = path.read_text(encoding="utf-8")
    package = re.match(r"#\s*@package\s+(\S+)", text)
    place = package[1] if package else group.replace("/", ".")
    cfg = OmegaConf.create(text)
    if place == "_global_" or not isinstance(cfg, DictConfig):
        return set()
    upper = [str(item) for item in cfg.get("defaults", []) if isinstance(item, str) and item != "_self_"]
    above = (_of_file(path.with_name(f"{name}.yaml"), group) for name in upper)
    own = {f"{place}.{key}" for key, _ in _walk(cfg) if key.partition(".")[0] != "defaults"}
    return own.union(*above)


def with_a_rule(above: str, config: str) -> list[str]:
    """The keys right below a node that `app.keys` has a rule for, whether its file lists them or not.

    Args:
        above: the node's own key.
        config: `train` or `evaluate`.
    """
    names = dict.fromkeys(pattern.rpartition(".")[2].lstrip("*") for pattern in RULES[config])
    return [key for name in names if name and rule_of(config, key := f"{above}.{name}") is not None]


def nearest(key: str, known: Iterable[str]) -> list[str]:
    """The keys that are most like a mistyped one, the nearest first; none where none is near.

    Args:
        key: with dots.
        known: what there is; `key` itself is not suggested.
    """
    scored = sorted({(-_likeness(key, name), name) for name in known if name != key})
    near = [(-score, name) for score, name in scored if -score >= NEAR]
    return [name for score, name in near[:SUGGESTED] if score >= near[0][0] - NEARLY_AS_NEAR]


def _likeness(key: str, name: str) -> float:
    """How alike two keys are, of 1: by their last names where they lie beside one another, else by all of them too."""
    above, _, last = key.lower().rpartition(".")
    above_of_name, _, last_of_name = name.lower().rpartition(".")
    of_last = SequenceMatcher(None, last, last_of_name).ratio()
    if above == above_of_name:
        return of_last
    return (of_last + SequenceMatcher(None, key.lower(), name.lower()).ratio()) / 2


def is_slip(key: str, name: str) -> bool:
    """Whether a key is so like another that it is one by a slip of the fingers, not a word of its own."""
    return _likeness(key, name) >= SLIP
