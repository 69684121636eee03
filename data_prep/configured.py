"""Configuration for the commands that take `key=value` as train.py does."""

from __future__ import annotations

from typing import Any

from dragonfly_lit.data.mix import Mix
from dragonfly_lit.processing.sequences import SequenceBuilder


def configure(overrides: list[str]) -> tuple[dict[str, Any], SequenceBuilder]:
    """The configuration of a training with these overrides, and what builds its sequences; no weight is loaded.

    Raises:
        ValueError: a key or a choice does not exist, or the tokenizer's or the tower's folder is missing.
    """
    from dragonfly_lit.app.build import compose
    from dragonfly_lit.app.errors import describe
    from dragonfly_lit.app.parts import build_builder

    try:
        config = compose(overrides)
    except Exception as error:  # Hydra's own kinds, which only `app` knows
        raise ValueError(describe(error, "train")) from error
    return config, build_builder(config)


def train_mix(config: dict[str, Any]) -> Mix:
    """The open sources of data.train."""
    data = config["data"]
    return Mix(
        data["train"], seed=data["seed"], max_pixels=data["max_pixels"], cache_dir=data["cache_dir"],
        cache_bytes=int(data["cache_gb"] * 10**9),
    )  # fmt: skip
