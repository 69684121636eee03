"""A model under another zoom than its own: the same weights, other crops kept."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

from dragonfly_lit.models.build import build_zoom_rule
from dragonfly_lit.spec.layout import Zoom


def under_zoom(model: Any, zoom: Zoom) -> Any:
    """The model that looks in another way; every weight, the zoom rule's included, is the model's own.

    Args:
        model: a Dragonfly, which stays as it is.
        zoom: what is looked at, and what of it is kept.

    Raises:
        ValueError: the model's zoom rule cannot be built for this zoom, or its weights have other shapes there.
    """
    view = copy.copy(model)
    view.__dict__["_modules"] = dict(model._modules)
    view.config = copy.deepcopy(model.config)
    view.config.zoom = asdict(zoom)
    view.layout = view.config.layout
    view.zoom = build_zoom_rule(view.config).to(model.device)
    weights = model.zoom.state_dict()
    if {name: value.shape for name, value in view.zoom.state_dict().items()} != {
        name: value.shape for name, value in weights.items()
    }:
        raise ValueError(
            f"the weights of {type(model.zoom).__name__} have other shapes under {zoom}: it knows the zoom alone that "
            "it was trained with. Leave the zoom as it is."
        )
    view.zoom.load_state_dict(weights, assign=True)
    view.zoom.requires_grad_(False)
    view.zoom.eval()
    return view
