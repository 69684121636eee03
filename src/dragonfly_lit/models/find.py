"""A zoom rule that learns where to look from what the answer would have gained."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from dragonfly_lit.models.zoom import Views, ZoomRule
from dragonfly_lit.spec.layout import Layout


class Find(ZoomRule):
    """Scores every token of every high crop beside the whole image, its place and the question; a crop has its best.

    The language model's loss teaches it, crops that are dropped included (`ZoomRule.swaps`). Under training and
    inference it selects alike. With `zoom.score=question` it reads the question, otherwise it looks for what is
    mostly asked about.

    Args:
        layout: geometry of an image's tokens.
        width: of the language model.
        hidden: width of its two layers.
        sharpness: what scores are multiplied with; the larger, the sooner a crop takes the whole place.
        explore: size of the Gumbel noise on the scores in training, so that every crop is kept now and then.
        places: whether it sees where a crop lies in the image.
    """

    swaps = True

    def __init__(
        self,
        layout: Layout,
        width: int,
        hidden: int = 64,
        sharpness: float = 4.0,
        places: bool = True,
        explore: float = 1.0,
    ) -> None:
        super().__init__(layout, width)
        self.hidden, self.sharpness, self.explore = hidden, sharpness, explore
        self.token = nn.Linear(width, hidden)
        self.whole = nn.Linear(width, hidden, bias=False)
        self.place = nn.Linear(NUM_WAVES, hidden, bias=False) if places else None
        self.asked = nn.Linear(width, hidden, bias=False) if layout.zoom.score == "question" else None
        self.inner = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1, bias=False)

    def score_views(self, views: Views) -> Float[Tensor, "images high"]:
        """In float32, see ZoomRule; an image without a question is looked at as if any could be asked."""
        tokens = self._normed(views.project(views.high))
        # The mean over all crops stands for the whole image: what is rare shows against it.
        seen = self.token(tokens) + self.whole(tokens.mean(dim=(1, 2), keepdim=True))
        if self.place is not None:
            if views.grids is None:
                raise ValueError(
                    f"{type(self).__name__} with places=true needs image_grids: (cols, rows) of the medium and of the "
                    "high grid of every image. DragonflyProcessor and the data stream give them; or use places: false."
                )
            waves = place_waves(views.grids[:, 1], tokens.shape[1])
            seen = seen + self.place(waves.to(tokens))[:, :, None]
        seen = gelu(seen)
        if self.asked is not None:
            seen = seen * (1 + self._asked(views.question))[:, None, None]
        scores = self.out(gelu(self.inner(seen)))[..., 0].float() * self.sharpness
        return scores.logsumexp(dim=-1)

    def explored(self, scores: Float[Tensor, "images high"]) -> Float[Tensor, "images high"]:
        """In training with Gumbel noise of size `explore`."""
        if self.training and self.explore:
            return scores - self.explore * torch.empty_like(scores).exponential_().log()
        return scores

    def rows_projected(self) -> int:
        """Every token of every high crop."""
        return self.layout.zoom.num_high * self.layout.pooled_per_crop

    def num_flops(self) -> int:
        """Of its linear layers."""
        per_token = self.hidden * (self.width + self.hidden + 1)
        per_crop = self.hidden * NUM_WAVES * (self.place is not None)
        per_image = self.hidden * self.width * (1 + (self.asked is not None))
        return 2 * (self.rows_projected() * per_token + self.layout.zoom.num_high * per_crop + per_image)

    def _normed(self, features: Tensor) -> Tensor:
        return layer_norm(features.to(self.token.weight.dtype), features.shape[-1:])

    def _asked(self, question: tuple[Tensor, Tensor] | None) -> Tensor:
        assert self.asked is not None
        if question is None:
            raise ValueError(
                "zoom.score=question needs question_mask, the words of the question in input_ids. "
                "DragonflyProcessor and the data stream give it; or use zoom.score=pooled."
            )
        words, num_words = question
        return self.asked(self._normed(words)) * (num_words > 0)[:, None]


class Pupil(Find):
    """As Find, but the loss of the answers says nothing to it: an objective teaches it (`training.teaching.Taught`)."""

    swaps = False
    pupil = True


FREQUENCIES = (0.5, 1.0, 2.0)
NUM_WAVES = 4 * len(FREQUENCIES)


def place_waves(grids: Int[Tensor, "images 2"], num_high: int) -> Float[Tensor, "images high waves"]:
    """Sines and cosines of where the middle of each high crop lies, across and down, in shares of the image.

    Args:
        grids: (cols, rows) of each image's high grid.
        num_high: number of high crops, row by row.
    """
    crops = torch.arange(num_high, device=grids.device)
    cols, rows = grids[:, :1], grids[:, 1:]
    middle = torch.stack([(crops % cols + 0.5) / cols, (crops // cols + 0.5) / rows], dim=-1)
    angles = 2 * torch.pi * middle[..., None] * torch.tensor(FREQUENCIES, device=grids.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
