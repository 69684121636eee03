"""Buffers that no cast may touch: rotary frequencies in bfloat16 turn the later positions into noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FREQUENCIES = ("inv_freq", "original_inv_freq")


class ExactBuffers(nn.Module):
    """A module whose rotary frequencies stay float32 through `.to(dtype)`, and are right after `.to_empty(device=)`."""

    def _apply(self, fn, recurse: bool = True):
        before = {
            (module, name): buffer
            for module in self.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name in _FREQUENCIES or name == "position_ids"
        }
        result = super()._apply(fn, recurse)
        for (module, name), buffer in before.items():
            moved = module.get_buffer(name)
            if buffer.is_meta and not moved.is_meta:
                setattr(module, name, _computed(module, name, moved))
            elif name in _FREQUENCIES:
                setattr(module, name, buffer.to(moved.device))
        return result


def _computed(module: nn.Module, name: str, like: Tensor) -> Tensor:
    if name == "position_ids":
        return torch.arange(like.shape[-1], device=like.device).expand(like.shape)
    with torch.device(like.device):
        return type(module)(module.config).get_buffer(name)
