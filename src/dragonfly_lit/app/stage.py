"""From `stage` of the configuration to what trains: its optimizer and its schedule may be the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object

from dragonfly_lit.app.build import make
from dragonfly_lit.app.moved import MOVED
from dragonfly_lit.training.stages import Stage

AUTO = "auto"
"""Of `stage.steps`: as many as `stage.samples` takes, known once the data are there (`app.reading`)."""


def build_stage(node: Mapping[str, Any]) -> Stage:
    """The stage that a run trains; of one step where `steps` is not known yet.

    Raises:
        ValueError: a key is not one of a stage, or the optimizer or schedule cannot be found.
    """
    for key, place in MOVED.items():
        if key in node:
            raise ValueError(f"stage.{key} has moved to {place}, where the optimizer's other arguments are.")
    parts: dict[str, Any] = {"steps": 1} if node.get("steps") == AUTO else {}
    for key in ("optimizer", "schedule"):
        if isinstance(node.get(key), Mapping):
            parts[key] = _callable(node[key], f"stage.{key}")
    return make({key: value for key, value in node.items() if key not in (*parts, "samples")} | parts, where="stage")


def what_trains(node: Mapping[str, Any]) -> Stage:
    """The stage without its optimizer, whose package a machine that only plans need not have."""
    return build_stage({key: value for key, value in node.items() if key != "optimizer"})


def _callable(node: Mapping[str, Any], where: str) -> Any:
    """What is called later, with the arguments of the node: an optimizer's class, a function, or a callable object."""
    if "_target_" not in node:
        raise ValueError(f"{where} has no _target_. Name a class or a function, as in {where}._target_=my_parts.mine.")
    return make({"_partial_": _is_called_later(node, where), **node}, where=where)


def _is_called_later(node: Mapping[str, Any], where: str) -> bool:
    if where == "stage.optimizer":
        return True
    try:
        found = get_object(str(node["_target_"]))
    except Exception:  # `make` says it better
        return True
    # A function is called with (step, steps) itself; a class is built first, and its objects are called.
    return not isinstance(found, type)
