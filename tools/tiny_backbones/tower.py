"""Pretrain the tiny vision tower: attributes read off the features that Dragonfly takes, captions off the last ones.

The features that the language model will read are those before the last layer, class token kept, no final norm. So
linear heads on them learn colour, shape and cover; the last layer learns to match crops with captions, as CLIP does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from tools.tiny_backbones.schedule import Descent
from tools.tiny_backbones.texts import COLOURS, SHAPES
from tools.tiny_backbones.world import Views, draw_views

CROP_SIDE, PATCH_SIDE = 32, 8
"""In pixels."""
SCENES_A_STEP = 64
VIEWS_A_SCENE = 4
FEATURE_LAYER = -2
QUIET = 0.3
"""Weight of the squared features of ground. With them near zero, the crops most alike are those that show the shape,
and after stage 1 the zoom mostly keeps the crop with most of it; without this term it mostly does not."""


def tower_config() -> CLIPVisionConfig:
    """96 wide, 4 layers, 32 px crops of 8 px patches: about 0.46 million weights."""
    return CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=96,
        image_size=CROP_SIDE,
        patch_size=PATCH_SIDE,
    )


def normalised(pixels: np.ndarray) -> Tensor:
    """uint8 crops [crops, 3, side, side] as CLIP wants them."""
    mean, std = torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1), torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1)
    return (torch.from_numpy(pixels).float() / 255 - mean) / std


class Targets:
    """What each token of a crop should say, class token first: index into COLOURS and SHAPES, one beyond for ground."""

    def __init__(self, views: Views) -> None:
        cover = torch.from_numpy(views.cover)
        self.cover = torch.cat([cover.mean(dim=1, keepdim=True) * 4, cover], dim=1)
        self.colour = _with_class_token(views.colour, len(COLOURS))
        self.shape = _with_class_token(views.shape, len(SHAPES))


def _with_class_token(patches: np.ndarray, ground: int) -> Tensor:
    labels = torch.from_numpy(np.concatenate([patches.max(axis=1, keepdims=True), patches], axis=1))
    return labels.masked_fill(labels < 0, ground)


class Heads(nn.Module):
    """Linear readers of the features, and the embeddings of captions that crops are matched with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.cover = nn.Linear(width, 1)
        self.image = nn.Linear(width, width, bias=False)
        self.colour_word = nn.Embedding(len(COLOURS) + 1, width)
        self.shape_word = nn.Embedding(len(SHAPES) + 1, width)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def loss(self, features: Tensor, pooled: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            features: of every token before the last layer, [crops, tokens, width].
            pooled: the class token after the last layer, [crops, width].
            targets: what the crops show.
        """
        ground = targets.shape == len(SHAPES)
        losses = {
            "cover": F.mse_loss(self.cover(features).squeeze(-1), targets.cover),
            "quiet": QUIET * features[ground].pow(2).mean(),
        }
        for name, head, labels in (("colour", self.colour, targets.colour), ("shape", self.shape, targets.shape)):
            logits = head(features)
            losses[name] = _balanced_cross_entropy(logits, labels, ground=logits.shape[-1] - 1)
        words = self.colour_word(targets.colour[:, 0]) + self.shape_word(targets.shape[:, 0])
        match = F.normalize(self.image(pooled), dim=-1) @ F.normalize(words, dim=-1).T * self.scale.exp()
        losses["caption"] = _contrast(match, targets.colour[:, 0] * (len(SHAPES) + 1) + targets.shape[:, 0])
        return losses


def _balanced_cross_entropy(logits: Tensor, labels: Tensor, ground: int) -> Tensor:
    # Most patches are ground; a third of the weight is enough for them.
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    is_ground = labels.flatten() == ground
    return each[~is_ground].mean() + 0.5 * each[is_ground].mean()


def _contrast(match: Tensor, caption: Tensor) -> Tensor:
    """CLIP's loss; crops of the same caption share its match instead of competing for it."""
    same = (caption[:, None] == caption[None, :]).float()
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(match, target) + F.cross_entropy(match.T, target)) / 2


def train_tower(
    num_steps: int, seed: int, on_step: Callable[[int, dict[str, float]], None]
) -> tuple[CLIPVisionModel, Heads]:
    """A tower trained for `num_steps` steps, and the heads that read it.

    Args:
        num_steps: of SCENES_A_STEP scenes in VIEWS_A_SCENE views.
        seed: of the drawings and the initial weights.
        on_step: called after each step with its number and losses by name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = CLIPVisionModel(tower_config())
        heads = Heads(tower.config.hidden_size)
    rng = np.random.default_rng([seed, 1])
    descent = Descent(num_steps, tower, heads)
    tower.train()
    for step in range(num_steps):
        views = draw_views(SCENES_A_STEP, VIEWS_A_SCENE, CROP_SIDE, PATCH_SIDE, rng)
        out = tower(pixel_values=normalised(views.pixels), output_hidden_states=True)
        losses = heads.loss(out.hidden_states[FEATURE_LAYER], out.pooler_output, Targets(views))
        descent.step(torch.stack(list(losses.values())).sum())
        on_step(step, {name: loss.item() for name, loss in losses.items()})
    return tower.eval(), heads.eval()


@torch.no_grad()
def probe_tower(tower: CLIPVisionModel, heads: Heads, seed: int, num_scenes: int = 250) -> dict[str, float]:
    """Accuracy on newly drawn scenes: colour and shape of patches and of whole views, and ground told from shape."""
    views = draw_views(num_scenes, VIEWS_A_SCENE, CROP_SIDE, PATCH_SIDE, np.random.default_rng([seed, 2]))
    targets = Targets(views)
    features = tower(pixel_values=normalised(views.pixels), output_hidden_states=True).hidden_states[FEATURE_LAYER]
    colour, shape = heads.colour(features).argmax(-1), heads.shape(features).argmax(-1)
    shown = targets.shape < len(SHAPES)
    whole = torch.arange(len(views.pixels)) % VIEWS_A_SCENE == 0
    return {
        "colour of a patch": (colour == targets.colour)[shown].float().mean().item(),
        "shape of a patch": (shape == targets.shape)[shown].float().mean().item(),
        "ground or shape": ((shape < len(SHAPES)) == shown).float().mean().item(),
        "colour of a whole scene": (colour == targets.colour)[whole, 0].float().mean().item(),
        "shape of a whole scene": (shape == targets.shape)[whole, 0].float().mean().item(),
    }
