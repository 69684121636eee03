"""A vision tower of your own: the last features beside those of an earlier layer, so each is twice as wide.

    python ../train.py --config-dir conf vision=two_layers

`conf/vision/two_layers.yaml` names this class. It derives from the built-in tower, so pretrained weights are read into
it as ever; a tower that is nothing like it derives from `dragonfly_lit.models.vision.Tower`.
"""

import torch

from dragonfly_lit.models.vision import VisionTower


class TwoLayers(VisionTower):
    """Features of two layers of the same transformer.

    Args:
        config: of the whole model; `config.vision_config` is the tower's, `config.layout` counts the features.
        early: index of the earlier hidden state, 0 for the embeddings. This and every argument after it is a key of the
            YAML file.
    """

    def __init__(self, config, early=1):
        super().__init__(config)
        if not 0 <= early < len(self.blocks):
            raise ValueError(f"vision.tower.early={early}: use 0 to {len(self.blocks) - 1}, before the last layer.")
        self.early = early
        self.width = 2 * config.vision_config.hidden_size  # the projector takes in as much

    def forward(self, pixels):
        """uint8 pixels (crops, 3, side, side) to features (crops, config.layout.features_per_crop, self.width)."""
        states = self.tower(pixel_values=self.normalise(pixels), output_hidden_states=True).hidden_states
        return torch.cat([states[self.early], states[-1]], dim=-1)
