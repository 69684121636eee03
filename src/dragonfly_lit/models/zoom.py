"""Which high-resolution crops the language model sees, and how the others are pooled.

Zoom-in patch selection (arXiv 2406.00977, section 3): the high crops of a region compete for the
places under one medium crop. Everything is a count known beforehand, so every image has as many tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dragonfly_lit.models.own_parts import check_gives
from dragonfly_lit.spec.layout import Layout, Zoom

Project = Callable[[Tensor], Tensor]


class Ranking(NamedTuple):
    """How the high crops of each image did.

    Attributes:
        scores: of every high crop, in float32; comparable within an image.
        regions: the medium crop under which each high crop competes.
        selected: indices of the kept high crops within the high crops, ascending.
        gates: 1 for each kept crop, with the gradient of its score; None unless a learned score takes them.
        shares: what each high crop weighs in the place of each kept one, with the gradient of the scores: all that
            weigh something are the kept crop and the dropped ones of its region, and a place's sum is 1. None unless
            the rule is taught by swaps.
        learnt: the scores with their gradient and without what `ZoomRule.explored` adds, for an objective that teaches
            them; None where none of them learns.
    """

    scores: Float[Tensor, "images high"]
    regions: Int[Tensor, "images high"]
    selected: Int[Tensor, "images kept"]
    gates: Tensor | None = None
    shares: Tensor | None = None
    learnt: Tensor | None = None


class Views(NamedTuple):
    """What a rule may look at; features have no graph.

    Attributes:
        medium: pooled features of the medium crops.
        high: pooled features of the high crops.
        regions: the medium crop under which each high crop competes.
        grids: (cols, rows) of the medium and of the high grid of each image; None where nobody gave them.
        project: vision width to language width, see `ZoomRule.scores`.
        question: mean word embedding of each image's question and its number of words; with `zoom.score=question` only.
    """

    medium: Float[Tensor, "images medium features vision"]
    high: Float[Tensor, "images high features vision"]
    regions: Int[Tensor, "images high"]
    grids: Int[Tensor, "images 2 2"] | None
    project: Project
    question: tuple[Tensor, Tensor] | None


def pool_patches(
    features: Float[Tensor, "*crops features width"], layout: Layout
) -> Float[Tensor, "*crops pooled width"]:
    """Average-pool the patches of each crop by `zoom.pool` a side; the class token stays.

    Exact before an affine projector: the projection of a mean is the mean of the projections.
    """
    if layout.zoom.pool == 1:
        return features
    first = int(layout.class_token)
    side = layout.patches_per_side // layout.zoom.pool
    patches = features[..., first:, :].unflatten(-2, (side, layout.zoom.pool, side, layout.zoom.pool))
    pooled = patches.mean(dim=(-4, -2)).flatten(-3, -2)
    return torch.cat([features[..., :first, :], pooled], dim=-2)


def crop_regions(zoom: Zoom, num_images: int, grids: Int[Tensor, "images 2 2"] | None) -> Int[Tensor, "images high"]:
    """The medium crop under which each high crop competes.

    Args:
        zoom: `raster` deals equal runs in reading order; `spatial` takes the medium crop of the largest
            overlap, the lower index on a tie; under `image` all compete with all.
        num_images: number of images.
        grids: (cols, rows) of the medium and of the high grid; only `spatial` needs them.
    """
    device = None if grids is None else grids.device
    if zoom.regions == "image":
        return torch.zeros(num_images, zoom.num_high, dtype=torch.long, device=device)
    high = torch.arange(zoom.num_high, device=device)
    if zoom.regions == "raster":
        return (high // (zoom.num_high // zoom.num_medium)).expand(num_images, -1)
    if grids is None:
        raise ValueError(
            "zoom.regions=spatial needs image_grids: (cols, rows) of the medium and of the high grid of every image. "
            "DragonflyProcessor and the data stream give them; or use zoom.regions=raster."
        )
    medium = torch.arange(zoom.num_medium, device=device)
    overlap = torch.ones((), dtype=torch.long, device=device)
    medium_cols, high_cols = grids[:, 0, 0], grids[:, 1, 0]
    places = (
        (medium % medium_cols[:, None], high % high_cols[:, None]),
        (medium // medium_cols[:, None], high // high_cols[:, None]),
    )
    for axis, (in_medium, in_high) in enumerate(places):
        # In units of 1 / (medium * high) of the image's side, so that everything stays an integer.
        num_medium, num_high = grids[:, 0, axis, None, None], grids[:, 1, axis, None, None]
        m, h = in_medium[:, None, :], in_high[:, :, None]
        shared = torch.minimum((m + 1) * num_high, (h + 1) * num_medium) - torch.maximum(m * num_high, h * num_medium)
        overlap = overlap * shared.clamp(min=0)
    return (overlap * zoom.num_medium - medium).argmax(-1)


def swap_shares(
    scores: Float[Tensor, "images high"], regions: Int[Tensor, "images high"], selected: Int[Tensor, "images kept"]
) -> Float[Tensor, "images kept high"]:
    """What a kept crop and each dropped one of its region weigh in its place, by softmax of their scores.

    As the scores part from each other this becomes the selection itself: a kept crop weighs all in its own place.
    """
    dropped = torch.ones_like(scores, dtype=torch.bool).scatter(1, selected, False)
    own = nn.functional.one_hot(selected, scores.shape[1]).bool()
    same = regions.gather(1, selected)[:, :, None] == regions[:, None, :]
    rivals = own | (same & dropped[:, None, :])
    return scores[:, None, :].expand(rivals.shape).masked_fill(~rivals, float("-inf")).softmax(dim=-1)


def swap_gradient(
    kept: Float[Tensor, "images kept tokens width"],
    high: Float[Tensor, "images high tokens width"],
    shares: Float[Tensor, "images kept high"],
) -> Float[Tensor, "images kept tokens width"]:
    """`kept` to the bit, with a gradient to the shares as if each place held its mixture of crops.

    The loss's gradient at a place, times what another crop has there, is to first order what the loss would change by
    if that crop were kept instead: so dropped crops are heard, though nothing of them is in the sequence.
    """
    mixed = torch.einsum("nkh,nhtw->nktw", shares.to(high.dtype), high.detach())
    return kept + (mixed - mixed.detach()).to(kept.dtype)


def select_crops(scores: Tensor, regions: Tensor, zoom: Zoom) -> Int[Tensor, "images kept"]:
    """The best `top_k` of every region, ascending.

    A region with fewer crops than places gives those places to the best of the others, so the count never
    changes. Equal scores go to the lower index.
    """
    assert zoom.top_k is not None
    order = scores.argsort(dim=-1, descending=True, stable=True)
    place = order.argsort(dim=-1)
    same = regions[:, :, None] == regions[:, None, :]
    better = place[:, None, :] < place[:, :, None]
    rank_in_region = (same & better).sum(-1)
    preference = place + zoom.num_high * (rank_in_region >= zoom.top_k)
    return preference.argsort(dim=-1)[:, : zoom.num_high_kept].sort(dim=-1).values


class ZoomRule(nn.Module):
    """Ranks the high crops of every image and keeps the best; derive your own from it and give it `scores`.

    The model calls `YourRule(layout, width, **your_keys)`. How many crops are kept is the zoom's, so every image has
    as many tokens. A rule with weights of its own trains through a straight-through gate on the kept crops, or, where
    `swaps` is true, through what each dropped crop would have changed in a kept one's place. Beside that, or in its
    stead, an objective may teach it (`training.teaching.Taught`).

    Args:
        layout: geometry of an image's tokens; `layout.zoom` is what is looked at.
        width: of the language model, and of what `project` gives.

    Attributes:
        swaps: whether the loss teaches the score of dropped crops too; costs projecting all high crops in training.
        explores: whether training mode, and so noise of its own, reaches it; a run that compares two passes of a batch
            sets it to False.
        pupil: whether it learns from such an objective alone; a run that trains it with another one is refused.
    """

    swaps: bool = False
    explores: bool = True
    pupil: bool = False

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.layout, self.width = layout, width

    @property
    def frozen(self) -> bool:
        """Whether it has weights, none of which trains."""
        weights = list(self.parameters())
        return bool(weights) and not any(weight.requires_grad for weight in weights)

    def train(self, mode: bool = True) -> ZoomRule:
        """Switch to training mode, unless it is frozen, where noise would teach nothing, or does not explore."""
        return super().train(mode and self.explores and not self.frozen)

    def scores(
        self,
        medium: Float[Tensor, "images medium features vision"],
        high: Float[Tensor, "images high features vision"],
        regions: Int[Tensor, "images high"],
        project: Project,
        question: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "images high"]:
        """Score of every high crop; the larger, the sooner it is kept.

        Args:
            medium: pooled features of the medium crops, without a graph.
            high: pooled features of the high crops, without a graph.
            regions: the medium crop under which each high crop competes.
            project: vision width to language width, which is affine. Where the projector is not affine, the
                features are projected already and this hands them through.
            question: mean word embedding of each image's question, and its number of words; given with
                `zoom.score=question` only.
        """
        # A subclass must say it; the one built in is ZoomIn.
        raise NotImplementedError(f"{type(self).__name__} has no scores(medium, high, regions, project, question).")

    def score_views(self, views: Views) -> Float[Tensor, "images high"]:
        """Score of every high crop, as `scores`; override this one where a rule needs more of `views`."""
        return self.scores(views.medium, views.high, views.regions, views.project, views.question)

    def forward(
        self,
        medium: Float[Tensor, "images medium features vision"],
        high: Float[Tensor, "images high features vision"],
        project: Project,
        grids: Int[Tensor, "images 2 2"] | None = None,
        question: tuple[Tensor, Tensor] | None = None,
    ) -> Ranking:
        """Scores, regions and the kept crops. Gradients reach the rule's own weights only, never what is ranked."""
        zoom = self.layout.zoom
        regions = crop_regions(zoom, len(high), grids).to(high.device)
        if question is not None:
            question = (question[0].detach(), question[1])
        learns = next(self.parameters(), None) is not None
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            views = Views(medium.detach(), high.detach(), regions, grids, _without_graph(project), question)
            scores = self.score_views(views)
        check_gives(scores, tuple(regions.shape), self, where="zoom.selector", of="a score for a high crop of an image")
        learnt = scores.float()
        scores = self.explored(learnt)
        selected = select_crops(scores.detach(), regions, zoom)
        if not scores.requires_grad:
            return Ranking(scores, regions, selected)
        ranking = Ranking(scores.detach(), regions, selected, learnt=learnt)
        if self.pupil:
            return ranking
        if self.swaps:
            return ranking._replace(shares=swap_shares(scores, regions, selected))
        return ranking._replace(gates=self._gates(scores, regions, selected))

    def explored(self, scores: Float[Tensor, "images high"]) -> Float[Tensor, "images high"]:
        """What crops are kept by: the scores; a rule that tries other crops in training adds its noise here.

        Args:
            scores: in float32, of every high crop.
        """
        return scores

    def held(
        self,
        kept: Float[Tensor, "images kept tokens width"],
        high: Float[Tensor, "images high tokens width"],
        shares: Float[Tensor, "images kept high"],
    ) -> Float[Tensor, "images kept tokens width"]:
        """What the kept places hold while a rule with `swaps` learns: here the kept crops, see `swap_gradient`.

        Args:
            kept: image tokens of the kept crops.
            high: those of all high crops, without a graph.
            shares: as in `Ranking`.
        """
        return swap_gradient(kept, high, shares)

    def rows_projected(self) -> int:
        """Features of an image that `scores` puts through an affine `project`; for counting FLOPs."""
        zoom = self.layout.zoom
        return zoom.num_medium + zoom.num_high * (self.layout.pooled_per_crop if zoom.score == "max" else 1)

    def num_flops(self) -> int:
        """Of comparing an image's high crops, beside projecting them; by default those of the built-in rule."""
        zoom = self.layout.zoom
        query = 2 * self.width**2 * zoom.num_high if zoom.learned else 0
        return 2 * self.width * zoom.num_high * (self.layout.pooled_per_crop if zoom.score == "max" else 1) + query

    def _gates(self, scores: Tensor, regions: Tensor, selected: Tensor) -> Tensor:
        same = rearrange(regions, "n h -> n h 1") == rearrange(regions, "n h -> n 1 h")
        logits = scores / self.width**0.5
        rivals = logits[:, None, :].expand(same.shape).masked_fill(~same, float("-inf"))
        share = (logits - rivals.logsumexp(dim=-1)).exp().gather(1, selected)
        return 1 + (share - share.detach())


class ZoomIn(ZoomRule):
    """The built-in rule: how much a high crop resembles its medium crop, or the question.

    `zoom.score` says against what a high crop is held: `pooled`, the dot product of the mean over its
    projected tokens with the mean over its medium crop's (the released rule); `max`, its best token with
    that mean; `question`, its mean with the mean word embedding of the question. `zoom.learned` puts a
    linear layer, at first the identity, on what it is held against; it trains through a straight-through gate. Where
    all crops compete (`zoom.regions=image`), the mean over all medium crops takes the place of the one medium crop.
    """

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__(layout, width)
        self.query = nn.Linear(width, width, bias=False) if layout.zoom.learned else None
        if self.query is not None:
            nn.init.eye_(self.query.weight)

    def scores(
        self,
        medium: Float[Tensor, "images medium features vision"],
        high: Float[Tensor, "images high features vision"],
        regions: Int[Tensor, "images high"],
        project: Project,
        question: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "images high"]:
        """In float32, see ZoomRule; an image without a question is ranked against its medium crop."""
        score = self.layout.zoom.score
        means = project(medium.mean(dim=-2)).float()
        if self.layout.zoom.regions == "image":
            means = means.mean(dim=1, keepdim=True)
        query = means.gather(1, regions[:, :, None].expand(-1, -1, means.shape[-1]))
        if score == "question":
            if question is None:
                raise ValueError(
                    "zoom.score=question needs question_mask, the words of the question in input_ids. "
                    "DragonflyProcessor and the data stream give it; or use zoom.score=pooled."
                )
            asked, num_words = question
            query = torch.where(num_words[:, None, None] > 0, asked.float()[:, None, :], query)
        if self.query is not None:
            query = self.query(query.to(self.query.weight.dtype)).float()
        if score == "max":
            return torch.einsum("nhpd,nhd->nhp", project(high).float(), query).amax(dim=-1)
        return torch.einsum("nhd,nhd->nh", project(high.mean(dim=-2)).float(), query)


def _without_graph(project: Project) -> Project:
    return lambda features: project(features).detach()
