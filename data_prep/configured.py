"""Configuration for the commands that take `key=value` as train.py does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragonfly_lit.data.mix import Mix
from dragonfly_lit.processing.sequences import SequenceBuilder


def configure(overrides: list[str]) -> tuple[dict[str, Any], SequenceBuilder]:
    """The configuration of a training with these overrides, and what builds its sequences; no weight is loaded.

    Raises:
        ValueError: a key or a choice does not exist, or the tokenizer's or the tower's folder is missing.
    """
    from dragonfly_lit.app.build import compose
    from dragonfly_lit.app.check import check_weights
    from dragonfly_lit.app.errors import describe
    from dragonfly_lit.app.factories import build_components

    try:
        config = compose(overrides)
    except Exception as error:  # Hydra's own kinds, which only `app` knows
        raise ValueError(describe(error, "train")) from error
    for group, read in (("vision", "config.json"), ("language", "tokenizer")):
        if config[group].get("tokenizer") is None:
            try:
                check_weights(group, config[group]["path"], config)
            except ValueError as error:
                raise ValueError(f"{error} Of it this command reads the {read} only.") from error
    return config, build_components(config).builder


def train_mix(config: dict[str, Any], mix: Mapping[str, Any] | None = None) -> Mix:
    """The open sources of data.train, or of a part of it."""
    data = config["data"]
    return Mix(
        mix or data["train"],
        seed=data["seed"],
        max_pixels=data["max_pixels"],
        cache_dir=data["cache_dir"],
        cache_bytes=int(data["cache_gb"] * 10**9),
    )
