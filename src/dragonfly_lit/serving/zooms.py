"""The model under another zoom than its own: the same weights, other crops kept. For looking, not for scores."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dragonfly_lit.models.view import under_zoom
from dragonfly_lit.spec.layout import Zoom

MAX_ZOOMS = 16
"""Views of a model that are kept; one is small."""


def changed(zoom: Zoom, changes: Mapping[str, Any], *, fixed: bool) -> Zoom:
    """A zoom with some of its fields changed.

    Args:
        zoom: of the model.
        changes: fields of Zoom.
        fixed: whether the model has a zoom rule with weights or of the user's own, which knows one zoom alone.

    Raises:
        ValueError: there is no such zoom, or it is fixed.
    """
    other = replace(zoom, **changes)
    if fixed and other != zoom:
        raise ValueError("this model's zoom rule is learned or of its own kind, and cannot be changed by a request.")
    return other


def is_fixed(model: Any) -> bool:
    """Whether the model has a zoom rule that was made for its own zoom."""
    return model.config.zoom_selector is not None or any(True for _ in model.zoom.parameters())


class Views:
    """The model under the zooms that were asked for last.

    Args:
        model: a Dragonfly; its weights are in every view.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._views: OrderedDict[Zoom, Any] = OrderedDict()

    def of(self, zoom: Zoom) -> Any:
        """The model under this zoom."""
        if zoom == self.model.layout.zoom:
            return self.model
        if zoom not in self._views:
            self._views[zoom] = under_zoom(self.model, zoom)
            while len(self._views) > MAX_ZOOMS:
                self._views.popitem(last=False)
        self._views.move_to_end(zoom)
        return self._views[zoom]
