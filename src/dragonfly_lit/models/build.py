"""The parts that a config describes: the built-in ones, or classes of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from dragonfly_lit.io.imports import locate
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.own_parts import check_method
from dragonfly_lit.models.projector import LinearProjector, Projector
from dragonfly_lit.models.vision import Tower, VisionTower
from dragonfly_lit.models.zoom import ZoomIn, ZoomRule

Part = TypeVar("Part", bound=nn.Module)


def build_tower(config: DragonflyConfig) -> Tower:
    """The vision tower: `vision_tower` of the config, or VisionTower."""
    tower = _build(config, "vision_tower", Tower, VisionTower, config)
    check_method(tower, Tower, "forward", where="vision.tower")
    return tower


def build_zoom_rule(config: DragonflyConfig) -> ZoomRule:
    """What ranks the high crops: `zoom_selector` of the config, or ZoomIn.

    Raises:
        ValueError: the config names a rule, but every high crop is kept.
    """
    layout = config.layout
    if config.zoom_selector is not None and not layout.zoom.selects:
        raise ValueError(
            f"zoom.selector={config.zoom_selector['_target_']} ranks high crops, but this zoom keeps all it looks at. "
            "Set zoom.top_k, or leave zoom.selector as it is."
        )
    rule = _build(config, "zoom_selector", ZoomRule, ZoomIn, layout, config.text_config.hidden_size)
    if type(rule).score_views is ZoomRule.score_views:  # one that overrides it may do without scores
        check_method(rule, ZoomRule, "scores", where="zoom.selector")
    return rule


def build_projector(config: DragonflyConfig, in_features: int) -> Projector:
    """The projector from features of that width: `projector` of the config, or LinearProjector.

    Raises:
        ValueError: it gives tokens for more blocks than the language model has, or where high crops are ranked.
    """
    projector = _build(config, "projector", Projector, LinearProjector, in_features, config.text_config.hidden_size)
    check_method(projector, Projector, "forward", where="projector")
    blocks = config.text_config.num_hidden_layers
    if projector.depth > blocks:
        raise ValueError(
            f"projector.depth={projector.depth}: the language model has {blocks} blocks. Use {blocks} or less."
        )
    if projector.depth > 1 and config.layout.zoom.selects:
        raise ValueError(
            f"projector.depth={projector.depth}: high crops are ranked by tokens of one block. Set zoom.top_k=null, or "
            "use projector=linear."
        )
    return projector


def _build(config: DragonflyConfig, field: str, base: type[Part], builtin: type[Part], *arguments: Any) -> Part:
    node: Mapping[str, Any] | None = getattr(config, field)
    if node is None:
        return builtin(*arguments)
    source = getattr(config, "name_or_path", "")
    # What a user composes is imported before a model is built (`app/factories.py`); what a file says is only looked up.
    where = f"{source}/config.json: {field}" if source else field
    part = locate(node["_target_"], where=where, base=base)
    own = {key: value for key, value in node.items() if key != "_target_"}
    try:
        return part(*arguments, **own)
    except (TypeError, AttributeError) as error:  # of which one is torch's, where super().__init__ was not called
        shown = ", ".join(f"{key}={value!r}" for key, value in own.items()) or "no keys"
        raise ValueError(f"{where}: {node['_target_']} cannot be built from {shown}: {error}.") from error
