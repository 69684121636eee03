"""From `objective` of the configuration to what a stage lowers; it may be a class of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragonfly_lit.app.build import make
from dragonfly_lit.io.imports import locate
from dragonfly_lit.training.checkpoint.format import SUPERVISED
from dragonfly_lit.training.objectives import Objective, Supervised


def build_objective(config: Mapping[str, Any]) -> Objective:
    """The objective of a resolved configuration; one of an earlier version has none and is supervised.

    Raises:
        ValueError: it cannot be built, is not an Objective, or another key does not go with it.
    """
    node = config.get("objective")
    if node is None:
        return Supervised()
    if "_target_" not in node:
        raise ValueError("objective has no _target_. Name a class, as in objective._target_=my_parts.mine.")
    found = make(node, where="objective")
    if not isinstance(found, Objective):
        raise ValueError(
            f"objective._target_={node['_target_']} gives a {type(found).__name__}. Let its class inherit from "
            "dragonfly_lit.training.objectives.Objective."
        )
    if found.preferences:
        _check_preferences(config)
    return found


def refers(config: Mapping[str, Any]) -> bool:
    """Whether the run has a reference, without looking at a value of the objective."""
    target = (config.get("objective") or {}).get("_target_", SUPERVISED)
    return bool(locate(target, where="objective._target_", trusted=[str(target)], base=Objective).reference)


def _check_preferences(config: Mapping[str, Any]) -> None:
    """Keys that say how single answers are learnt."""
    for key, value, wanted in (
        ("model.supervise", config["model"]["supervise"], "assistant"),
        ("data.weighting", config["data"].get("weighting", "token"), "token"),
    ):
        if value != wanted:
            raise ValueError(
                f"{key}={value} has no effect on an objective that compares two answers as wholes. Set {key}={wanted}."
            )
