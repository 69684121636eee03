"""Crops to patch features: a CLIP- or SigLIP-style tower that ends at the layer whose features are used."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModel

from dragonfly_lit.models.config import DragonflyConfig

ROWS_AT_ONCE = 512
"""Features, or 8 crops if those have more, that a CPU's caches hold between one layer and the next."""
TOWERS = ("clip_vision_model", "siglip_vision_model")


class Tower(nn.Module):
    """What a vision tower must be; derive your own from it, or from VisionTower.

    The model calls `YourTower(config, **your_keys)`. Every crop must give `config.layout.features_per_crop` features:
    the class token first where the layout has one, then the patches row by row. Pretrained weights are read into what
    is called `tower`; everything else starts fresh. Lists of blocks (`nn.ModuleList`) are sharded, compiled and
    checkpointed block by block. A frozen tower stays in eval mode.

    Attributes:
        width: length of a feature, which the projector takes in.
    """

    width: int

    def __init__(self, config: DragonflyConfig) -> None:
        super().__init__()
        self.width = config.vision_config.hidden_size
        self.mean = tuple(config.image_mean)
        self.std = tuple(config.image_std)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def frozen(self) -> bool:
        return not any(p.requires_grad for p in self.parameters())

    def train(self, mode: bool = True) -> Tower:
        """Switch to training mode, unless every weight is frozen."""
        return super().train(mode and not self.frozen)

    def normalise(self, pixels: UInt8[Tensor, "crops 3 side side"]) -> Float[Tensor, "crops 3 side side"]:
        """Pixels in 0..255 to zero mean and unit deviation, computed in float32 or better, on their device."""
        dtype = torch.promote_types(self.dtype, torch.float32)
        scale, shift = _scale_and_shift(self.mean, self.std, pixels.device, dtype)
        # In place on the copy that the cast makes; two more of them would cost more time than the arithmetic.
        return pixels.to(dtype).mul_(scale).add_(shift)

    def num_flops(self) -> int | None:
        """Matmul FLOPs of a crop's forward; of None, torch counts those of a forward without numbers."""
        return None

    def forward(self, pixels: UInt8[Tensor, "crops 3 side side"]) -> Float[Tensor, "crops features width"]:
        """Features of every crop, class token first where the layout has one."""
        # A subclass must say it; the one built in is VisionTower.
        raise NotImplementedError(f"{type(self).__name__} has no forward(pixels).")


class VisionTower(Tower):
    """A vision transformer without the layers and norms after the features that are used.

    Truncating gives `hidden_states[feature_layer]` bit for bit, keeps no other state, and leaves no
    parameter that would never get a gradient.
    """

    def __init__(self, config: DragonflyConfig) -> None:
        super().__init__(config)
        if config.vision_config.model_type not in TOWERS:
            raise ValueError(
                f"vision model_type={config.vision_config.model_type} is not a tower that Dragonfly can use. "
                f"Use one of {', '.join(TOWERS)}."
            )
        truncated = copy.deepcopy(config.vision_config)
        truncated.num_hidden_layers = config.num_vision_layers_used
        # SigLIP's pooling head; where a release's config does not name the key, its model reads it all the same.
        truncated.vision_use_head = False
        self.tower = AutoModel.from_config(truncated, trust_remote_code=False)
        self.tower.post_layernorm = nn.Identity()
        self._crops_at_once = max(8, ROWS_AT_ONCE // config.layout.features_per_crop)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer layers, for sharding and compiling one by one."""
        return self.tower.encoder.layers

    def forward(self, pixels: UInt8[Tensor, "crops 3 side side"]) -> Float[Tensor, "crops features width"]:
        """Features of every crop, class token first where the tower has one."""
        if pixels.device.type != "cpu" or any(isinstance(block, FSDPModule) for block in self.blocks):
            # Ranks that share weights gather them once a call, so all must call equally often.
            return self._features(pixels)
        parts = [self._features(some) for some in pixels.split(self._crops_at_once)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _features(self, pixels: UInt8[Tensor, "crops 3 side side"]) -> Float[Tensor, "crops features width"]:
        return self.tower(pixel_values=self.normalise(pixels)).last_hidden_state


def forget_constants() -> None:
    """Before and after a tower is run on tensors without numbers: neither kind is to meet the other's."""
    _scale_and_shift.cache_clear()


@lru_cache(maxsize=16)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, dtype: torch.dtype):
    means, stds = (torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1) for values in (mean, std))
    return 1 / (255 * stds), -means / stds
