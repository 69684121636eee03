"""What a Dragonfly is made of, in transformers' manner: two configs, a zoom, and two token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from dragonfly_lit.io.foreign import refuse_kernels
from dragonfly_lit.io.remote_code import SavedWithModule, auto_map
from dragonfly_lit.spec.layout import Layout, Zoom

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_MODEL = "DragonflyForConditionalGeneration"
AUTO_MAP = auto_map(
    AutoConfig="DragonflyConfig",
    AutoModelForImageTextToText=_MODEL,
    AutoModelForMultimodalLM=_MODEL,
    AutoModelForCausalLM=_MODEL,
    AutoProcessor="DragonflyProcessor",
    AutoImageProcessor="DragonflyImageProcessor",
)
"""In every config.json, for `trust_remote_code=True`; whoever has imported this package needs none of it."""
OWN_PARTS = ("vision_tower", "zoom_selector", "projector")
"""Keys of a config that name classes of the user's own."""


class DragonflyConfig(SavedWithModule, PreTrainedConfig):
    """Config of a Dragonfly: vision tower, language model, zoom and special tokens.

    Args:
        vision_config: of a CLIP- or SigLIP-style tower, as an object or a dict with `model_type`.
        text_config: of any causal language model that takes `inputs_embeds`.
        zoom: the fields of `spec.layout.Zoom`.
        image_token_id: id of the slot of one image feature.
        newline_token_id: id of the token that closes every crop.
        image_mean: per channel, of pixels in 0..1.
        image_std: per channel, of pixels in 0..1.
        feature_layer: index into the tower's hidden states, embeddings first; -2 is the released one.
        vision_source: where the tower came from, a name or a folder; kept for the released layout.
        vision_tower: a class of the user's own in place of `models.vision.VisionTower`: its dotted name as `_target_`
            and the keys that it takes. Given to `from_pretrained`, its module must have been imported before. One of
            the keys may be `feature_size`: the side in pixels of what one feature stands for, in place of a patch's.
        zoom_selector: likewise in place of `models.zoom.ZoomIn`.
        projector: likewise in place of `models.projector.LinearProjector`.
        chat: the format of its conversations, `llama3` or `own`, the template of its language model.
        images: where images stand in them: `front`, before all text, or `in_place`.
    """

    model_type = "dragonfly_lit"
    # transformers types it as a property and has its own configs set it just so.
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012  # pyright: ignore

    auto_map = AUTO_MAP  # of the class, so that it goes into files alone; trl looks for it

    # What Trainer does not hand to compute_metrics beside the logits.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "past_key_values",
        "hidden_states",
        "attentions",
        "last_hidden_state",
        "selected_crops",
        "crop_scores",
    ]

    def __init__(
        self,
        vision_config: PreTrainedConfig | Mapping[str, Any] | None = None,
        text_config: PreTrainedConfig | Mapping[str, Any] | None = None,
        zoom: Mapping[str, Any] | None = None,
        image_token_id: int = 128002,
        newline_token_id: int = 128003,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        feature_layer: int = -2,
        vision_source: str | None = None,
        vision_tower: Mapping[str, Any] | None = None,
        zoom_selector: Mapping[str, Any] | None = None,
        projector: Mapping[str, Any] | None = None,
        chat: str = "llama3",
        images: str = "front",
        **kwargs: Any,
    ) -> None:
        self.vision_config = _config("vision_config", vision_config, "clip_vision_model")
        self.text_config = _config("text_config", text_config, "llama")
        self.zoom = asdict(Zoom(**(zoom or {})))
        self.image_token_id = image_token_id
        self.newline_token_id = newline_token_id
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.feature_layer = feature_layer
        self.vision_source = vision_source
        self.vision_tower = _own_part("vision_tower", vision_tower, "dragonfly_lit.models.vision.VisionTower")
        self.zoom_selector = _own_part("zoom_selector", zoom_selector, "dragonfly_lit.models.zoom.ZoomIn")
        self.projector = _own_part("projector", projector, "dragonfly_lit.models.projector.LinearProjector")
        self.chat, self.images = chat, images
        kwargs.pop("auto_map", None)  # of the file that it is read from, and of every file that it is written to
        kwargs.setdefault("tie_word_embeddings", bool(getattr(self.text_config, "tie_word_embeddings", False)))
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Transformers' own, without what is built in, so that a released model's file is the one it always was."""
        builtin = dict.fromkeys(OWN_PARTS) | {"chat": "llama3", "images": "front"}
        return {k: v for k, v in super().to_dict().items() if k not in builtin or v != builtin[k]}

    def to_diff_dict(self) -> dict[str, Any]:
        """What is written to a file: transformers' own, where the classes are found, and no path of this machine."""
        fields = super().to_diff_dict() | {"auto_map": AUTO_MAP}
        for part in self.sub_configs:
            fields[part].pop("_name_or_path", None)
        if self.vision_source is not None:
            fields["vision_source"] = portable(self.vision_source)
        return fields

    @property
    def layout(self) -> Layout:
        """Geometry of an image's tokens."""
        feature_size = (self.vision_tower or {}).get("feature_size")
        return Layout.of_tower(self.vision_config, Zoom(**self.zoom), feature_size)

    @property
    def num_vision_layers_used(self) -> int:
        """Layers of the tower up to `feature_layer`; the rest is never built."""
        total, layer = self.vision_config.num_hidden_layers, self.feature_layer
        used = layer if layer >= 0 else total + 1 + layer
        if not 0 <= used <= total:
            raise ValueError(
                f"feature_layer={layer} points outside the {total + 1} hidden states of a tower of {total} layers. "
                f"Use {-total - 1} to {total}; the released models use -2."
            )
        return used


def portable(source: str) -> str:
    """Where a tower came from, as others may be told: the last name alone of an absolute path."""
    return Path(source).name if Path(source).is_absolute() else source


def _own_part(field: str, node: Mapping[str, Any] | None, builtin: str) -> dict[str, Any] | None:
    """None for the built-in part, however it is written, so that its config.json is the one it always was."""
    if node is None or dict(node) == {"_target_": builtin}:
        return None
    if "_target_" not in node:
        raise ValueError(f"{field}={dict(node)} does not name a class. Give _target_: package.module.Class.")
    return dict(node)


def _config(field: str, config: PreTrainedConfig | Mapping[str, Any] | None, default: str) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    fields = dict(config or {})
    built = AutoConfig.for_model(fields.pop("model_type", default), **fields)
    refuse_kernels(built, field)
    return built


AutoConfig.register(DragonflyConfig.model_type, DragonflyConfig, exist_ok=True)
