"""Fewer or more high crops at answer time than a model was trained with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dragonfly_lit.models.view import under_zoom
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor


def with_kept(model: Any, processor: Any, kept: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model and processor that keep other crops; the same two where nothing is said.

    Args:
        model: a Dragonfly in eval mode.
        processor: its processor.
        kept: `top_k`, high crops kept a region, and `regions`, within which they compete; None leaves the model's own.

    Raises:
        ValueError: the model has no zoom of that kind; names the key.
    """
    zoom = model.config.layout.zoom
    changes = {name: value for name, value in kept.items() if value is not None}
    if not changes:
        return model, processor
    said = ", ".join(f"kept.{name}={value}" for name, value in changes.items())
    if not zoom.high:
        raise ValueError(f"{said}: this model looks at no high crops. Leave it out.")
    try:
        other = replace(zoom, **changes)
        if not (other.selects or zoom.selects):
            raise ValueError(f"all {zoom.num_high} high crops are kept. Give a smaller kept.top_k, or leave it out.")
        view = under_zoom(model, other)
    except ValueError as error:
        raise ValueError(f"{said}: {error}") from error
    processor = copy.copy(processor)
    processor.image_processor = DragonflyImageProcessor.of(view.layout, processor.image_processor.resize)
    return view, processor
