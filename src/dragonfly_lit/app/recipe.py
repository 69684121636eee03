"""The recipe that a model comes with, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def recipe_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of the model for this stage; empty where a stage of the user's own has none."""
    return (config["model"].get("recipe") or {}).get(str(config["stage"]["name"])) or {}
