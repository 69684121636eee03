"""Dragonfly from files and into them: the released layout, transformers' own, and pretrained parts."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dragonfly_lit.models import io
from dragonfly_lit.models.io import Model
from dragonfly_lit.models.pretrained import DragonflyPreTrainedModel
from dragonfly_lit.models.quantized import Quantize, refuse_quantized
from dragonfly_lit.spec.layout import Zoom
from dragonfly_lit.spec.tokens import SpecialIds


class DragonflyFilesMixin(DragonflyPreTrainedModel):
    """Reading and writing; the work is in `models.io`."""

    @classmethod
    def from_released(
        cls: type[Model],
        folder: str | Path,
        *,
        vision: str | Path | None = None,
        version: str,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        quantize: Quantize | None = None,
    ) -> Model:
        """A released checkpoint, from its own files and never the network; the peak of memory is the model.

        Args:
            folder: config, weights (safetensors or .bin, sharded or not) and tokenizer.json.
            vision: folder or locally cached name of the tower's config; optional where `image_encoder/` is inside.
            version: `v1` or `v2`; the checkpoint does not say.
            dtype: of the weights.
            device: where to put them; on the meta device none are read.
            quantize: `nf4` or `int8` holds the language model's linear layers in few bits, rounded as they are read.

        Raises:
            ValueError: a key is missing, left over or of another shape, or the tower's config was not found.
        """
        return io.load_released(
            cls, folder, vision=vision, version=version, dtype=dtype, device=device, quantize=quantize
        )

    @classmethod
    def from_backbones(
        cls: type[Model],
        *,
        vision: str | Path,
        language: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        zoom: Zoom,
        image_size: int | None = None,
        feature_layer: int = -2,
        parts: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
        ids: SpecialIds | None = None,
        chat: str = "llama3",
        images: str = "front",
        quantize: Quantize | None = None,
    ) -> Model:
        """A pretrained tower, a pretrained language model, and a fresh projector between them.

        Args:
            vision: folder of a CLIP or SigLIP (whole, or the tower alone), or `builtin`.
            language: folder of a causal language model, a .gguf file, or `builtin`.
            tokenizer: has the special tokens of `ids`; the language model is enlarged for added ones.
            zoom: what is looked at.
            image_size: side of a crop in pixels; None for what the tower was trained at.
            feature_layer: index into the tower's hidden states.
            parts: `vision_tower`, `zoom_selector` and `projector` of DragonflyConfig, where they are not built in.
            dtype: of the weights.
            device: where to put them; on the meta device none are read.
            seed: of everything that no file brings: the projector, and what the user's own parts have.
            ids: of the format's special tokens; None are those of `spec.tokens`.
            chat: the format's name, `llama3` or `own`; kept in the config.
            images: where images stand, `front` or `in_place`; kept in the config.
            quantize: `nf4` or `int8` holds the language model's linear layers in few bits, rounded as they are read.

        Raises:
            ValueError: a part is not there, does not fit its config, or the tokenizer lacks a special token.
        """
        return io.from_backbones(
            cls,
            vision=vision,
            language=language,
            tokenizer=tokenizer,
            ids=ids,
            chat=chat,
            images=images,
            zoom=zoom,
            image_size=image_size,
            feature_layer=feature_layer,
            parts=parts or {},
            dtype=dtype,
            device=device,
            seed=seed,
            quantize=quantize,
        )

    def save_released(self, folder: str | Path, max_shard_size: str = "5GB") -> None:
        """Save as a folder that the released code loads: its key names, its config, the tower's unused layers too.

        Raises:
            ValueError: the zoom or a part is one that the released code does not know.
        """
        io.save_released(self, folder, max_shard_size)

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Transformers' own, and beside it the tower's unused layers, so that `save_released` stays possible."""
        refuse_quantized(self)
        unused = io.unused_tensors(self) if self.unused_vision else {}
        super().save_pretrained(save_directory, *args, **kwargs)
        if unused:
            self.unused_vision = io.save_unused(unused, Path(save_directory))

    @classmethod
    def from_exported(
        cls: type[Model],
        folder: str | Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        quantize: Quantize | None = None,
    ) -> Model:
        """Read a folder that `save_pretrained` or `export` wrote, every key accounted for; no code of it is run.

        Args:
            folder: in transformers' layout.
            dtype: of the weights; None keeps what they were saved in.
            device: where to put them.
            quantize: `nf4` or `int8` holds the language model's linear layers in few bits, rounded as they are read.

        Raises:
            ValueError: it is not such a folder, or its weights do not fit its config.
        """
        return io.load_exported(cls, Path(folder), dtype, device, quantize)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Transformers' own; notes where the tower's unused layers lie."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if pretrained_model_name_or_path is not None:
            model.unused_vision = io.unused_beside(Path(pretrained_model_name_or_path))
        return loaded
