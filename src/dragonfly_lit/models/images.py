"""From crops to the image tokens that the language model reads: looked at, ranked, projected, pooled."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule

from dragonfly_lit.models.own_parts import check_gives
from dragonfly_lit.models.pretrained import DragonflyPreTrainedModel
from dragonfly_lit.models.zoom import Ranking, pool_patches


class DragonflyImagesMixin(DragonflyPreTrainedModel):
    """The tower, the zoom and the projector, and the way through them."""

    def encode_images(
        self,
        pixel_values: UInt8[Tensor, "images crops 3 side side"],
        image_grids: Int[Tensor, "images 2 2"] | None = None,
        question: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "images slots tokens"], Ranking | None]:
        """Image tokens of every image in the order of their slots, and the ranking of its high crops.

        A frozen tower sees all crops in one call. A tower that trains ranks the high crops without a graph
        and sees the kept ones again with one, so that nothing is propagated back through what was dropped.
        """
        zoom = self.layout.zoom
        num_images, num_crops = pixel_values.shape[:2]
        if num_crops != zoom.num_crops:
            raise ValueError(
                f"pixel_values has {num_crops} crops an image, but the zoom looks at {zoom.num_crops} "
                f"(low {int(zoom.low)}, medium {zoom.num_medium}, high {zoom.num_high}). Cut them by the model's zoom."
            )
        in_two = zoom.selects and self._tower_trains()
        first_high = int(zoom.low) + zoom.num_medium
        seen = self._features(pixel_values[:, :first_high] if in_two else pixel_values)
        low, medium, high = seen.tensor_split((int(zoom.low), first_high), dim=1)
        if in_two:
            with torch.no_grad():
                high = self._features(pixel_values[:, first_high:])
        ranking = None
        if zoom.selects:
            ranking, all_high = self._rank(medium, high, image_grids, question), high
            images = torch.arange(num_images, device=high.device)[:, None]
            if in_two:
                high = self._features(pixel_values[:, first_high:][images, ranking.selected])
            else:
                high = high[images, ranking.selected]
            return self._taught(self._project(low, medium, high), ranking, all_high), ranking
        return self._project(low, medium, high), None

    def _taught(
        self,
        tokens: Float[Tensor, "images slots tokens"],
        ranking: Ranking,
        high: Float[Tensor, "images high features vision"],
    ) -> Float[Tensor, "images slots tokens"]:
        """The same image tokens, from which gradients reach the scores of a rule that learns.

        Args:
            tokens: of the crops that the language model sees, the kept high crops last.
            ranking: of the high crops.
            high: features of all of them.
        """
        if ranking.gates is None and ranking.shares is None:
            return tokens
        per_crop = self.layout.pooled_per_crop
        others, kept = tokens.tensor_split((tokens.shape[1] - ranking.selected.shape[1] * per_crop,), dim=1)
        kept = kept.unflatten(1, (-1, per_crop))
        if ranking.gates is not None:
            kept = kept * ranking.gates[:, :, None, None].to(kept.dtype)
        if ranking.shares is not None:
            with torch.no_grad():
                rivals = self._projected_high(high)
            kept = self.zoom.held(kept, rivals, ranking.shares)
        return torch.cat([others, kept.flatten(1, 2)], dim=1)

    def _projected_high(
        self, high: Float[Tensor, "images high features vision"]
    ) -> Float[Tensor, "images high pooled width"]:
        """Image tokens of high crops; pooled first where that is exact."""
        if self.projector.affine:
            return self._projected(pool_patches(high, self.layout))
        return pool_patches(self._projected(high), self.layout)

    def _features(
        self, crops: UInt8[Tensor, "images crops 3 side side"]
    ) -> Float[Tensor, "images crops features vision"]:
        crops_of_all = crops.flatten(0, 1)
        features = self.vision(crops_of_all)
        expected = (len(crops_of_all), self.layout.features_per_crop, self.vision.width)
        check_gives(
            features, expected, self.vision, where="vision.tower", of="crops x features (the layout's) x `self.width`"
        )
        return features.unflatten(0, crops.shape[:2])

    def _projected(self, features: Float[Tensor, "*places vision"]) -> Float[Tensor, "*places tokens"]:
        """Image tokens of features, as many as there are features."""
        tokens = self.projector(features)
        width = self.projector.depth * self.config.text_config.hidden_size
        check_gives(
            tokens, (*features.shape[:-1], width), self.projector, where="projector", of="an image token for a feature"
        )
        return tokens

    def _rank(
        self,
        medium: Float[Tensor, "images medium features vision"],
        high: Float[Tensor, "images high features vision"],
        grids: Tensor | None,
        question: tuple[Tensor, Tensor] | None,
    ) -> Ranking:
        """The ranking of the high crops; a projector that is not affine comes before every mean."""
        if self.projector.affine:
            medium, high = (pool_patches(part, self.layout) for part in (medium, high))
            return self.zoom(medium, high, self._projected, grids, question)
        with torch.no_grad():
            medium, high = (pool_patches(self._projected(part), self.layout) for part in (medium, high))
        return self.zoom(medium, high, nn.Identity(), grids, question)

    def _project(
        self,
        low: Float[Tensor, "images low features vision"],
        medium: Float[Tensor, "images medium features vision"],
        high: Float[Tensor, "images high features vision"],
    ) -> Float[Tensor, "images slots tokens"]:
        """Image tokens of the crops that the language model sees; pooled first where that is exact."""
        if self.projector.affine:
            pooled = (low, pool_patches(medium, self.layout), pool_patches(high, self.layout))
            return self._projected(torch.cat([part.flatten(1, 2) for part in pooled], dim=1))
        low, medium, high = (self._projected(part) for part in (low, medium, high))
        pooled = (low, pool_patches(medium, self.layout), pool_patches(high, self.layout))
        return torch.cat([part.flatten(1, 2) for part in pooled], dim=1)

    def _tower_trains(self) -> bool:
        return self.training and torch.is_grad_enabled() and not self.vision.frozen

    def add_dummy_image(self, embeddings: Tensor) -> Tensor:
        """Text only: a blank image at weight zero, where some other rank may have a real one and waits for this rank.

        Ranks that sum gradients need one of everything that trains; ranks that hold shards must gather the same
        parts in the same order, frozen ones and those of a validation included. So it goes the way of any image.
        """
        # Asked at every token of an answer: the modules are looked through only where it may matter.
        parts = (self.vision, self.zoom, self.projector)
        learns = self.training and torch.is_grad_enabled()
        trained = learns and any(p.requires_grad for part in parts for p in part.parameters())
        together = dist.is_available() and dist.is_initialized()
        sharded = together and any(isinstance(module, FSDPModule) for part in parts for module in part.modules())
        if not (sharded or trained):
            return embeddings
        side, device = self.layout.image_size, embeddings.device
        blank = torch.zeros(1, self.layout.zoom.num_crops, 3, side, side, dtype=torch.uint8, device=device)
        # Filled on the device: a copy of numbers of the host's would wait for it.
        numbers = [torch.full((), n, device=device) for grid in self.layout.grids(side, side) for n in grid]
        grids = torch.stack(numbers).view(1, 2, 2)
        question = (embeddings[:1, 0], torch.ones(1, dtype=torch.long, device=device))
        tokens, _ = self.encode_images(blank, grids, question)
        return embeddings + (tokens.sum() * 0).to(embeddings.dtype)
