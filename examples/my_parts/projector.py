"""A projector of your own: two layers of which one opens and closes the other.

    python ../train.py --config-dir conf projector=gated

`conf/projector/gated.yaml` names this class. The stages train it under the name `projector.*`, as they do the built-in
one.
"""

from torch import nn

from dragonfly_lit.models.projector import Projector


class GatedProjector(Projector):
    """A gated layer (SwiGLU, arXiv 2002.05202) and a linear one.

    Args:
        in_features: width of the vision tower.
        out_features: width of the language model.
        hidden: width between the layers. This and every other argument is a key of the YAML file.
    """

    # True only for a matrix and a bias: the model may then take means before it projects, which is cheaper.
    affine = False

    def __init__(self, in_features, out_features, hidden=64):
        super().__init__(in_features, out_features)
        self.gate = nn.Linear(in_features, hidden)
        self.value = nn.Linear(in_features, hidden)
        self.out = nn.Linear(hidden, out_features)

    def forward(self, features):
        """Features (..., in_features) to as many image tokens (..., out_features)."""
        features = features.to(self.dtype)  # a frozen tower may be in bfloat16
        return self.out(nn.functional.silu(self.gate(features)) * self.value(features))
