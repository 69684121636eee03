"""A Dragonfly from folders and into folders: released checkpoints, transformers' layout, pretrained parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from dragonfly_lit.models.backbones import assemble
from dragonfly_lit.models.io import UNUSED_FILE, read_released, unused_beside, unused_tensors
from dragonfly_lit.models.released_keys import write_released
from dragonfly_lit.models.weights import Stored
from dragonfly_lit.spec.layout import Zoom

if TYPE_CHECKING:
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration


class Folders:
    """Reading and writing, mixed into the model.

    Attributes:
        unused_vision: where the tower's weights after the features lie. The model never builds them; the released
            layout has them.
    """

    unused_vision: dict[str, Stored]

    @classmethod
    def from_released(
        cls: Any,
        folder: str | Path,
        *,
        vision: str | Path | None = None,
        version: str,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> DragonflyForConditionalGeneration:
        """A released checkpoint, from its own files and never the network; the peak of memory is the model.

        Args:
            folder: config, weights (safetensors or .bin, sharded or not) and tokenizer.json.
            vision: folder or locally cached name of the tower's config; optional where `image_encoder/` is inside.
            version: `v1` or `v2`; the checkpoint does not say.
            dtype: of the weights.
            device: where to put them.

        Raises:
            ValueError: a key is missing, left over or of another shape, or the tower's config was not found.
        """
        return read_released(cls, folder, vision=vision, version=version, dtype=dtype, device=device)

    @classmethod
    def from_parts(
        cls: Any,
        *,
        vision: str | Path,
        language: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        zoom: Zoom,
        image_size: int | None = None,
        feature_layer: int = -2,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> DragonflyForConditionalGeneration:
        """A pretrained tower, a pretrained language model, and a fresh projector between them.

        Args:
            vision: folder of a CLIP or SigLIP (whole, or the tower alone), or `builtin`.
            language: folder of a causal language model, a .gguf file, or `builtin`.
            tokenizer: has the special tokens of `spec.tokens`; the language model is enlarged for added ones.
            zoom: what is looked at.
            image_size: side of a crop in pixels; None for what the tower was trained at.
            feature_layer: index into the tower's hidden states.
            dtype: of the weights.
            device: where to put them.
            seed: of the projector.

        Raises:
            ValueError: a part is not there, does not fit its config, or the tokenizer lacks a special token.
        """
        return assemble(
            cls,
            vision=vision,
            language=language,
            tokenizer=tokenizer,
            zoom=zoom,
            image_size=image_size,
            feature_layer=feature_layer,
            dtype=dtype,
            device=device,
            seed=seed,
        )

    def save_released(self: Any, folder: str | Path, max_shard_size: str = "5GB") -> None:
        """Save as a folder that the released code loads: its key names, its config, the tower's unused layers too.

        Raises:
            ValueError: the zoom or a part is one that the released code does not know.
        """
        write_released(self, folder, max_shard_size)

    def save_pretrained(self: Any, save_directory: str | Path, **kwargs: Any) -> None:
        """Transformers' own, and beside it the tower's unused layers, so that `save_released` stays possible."""
        unused = unused_tensors(self) if self.unused_vision else {}
        super().save_pretrained(save_directory, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if unused:
            save_file(unused, Path(save_directory) / UNUSED_FILE)
            self.unused_vision = unused_beside(Path(save_directory))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Transformers' own; notes where the tower's unused layers lie."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # pyright: ignore
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.unused_vision = unused_beside(Path(pretrained_model_name_or_path))
        return loaded
