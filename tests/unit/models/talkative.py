"""A tiny model that has something to say."""

import torch

from dragonfly_lit.models.tiny import tiny_model


def talkative_model():
    """A tiny model whose answers depend on the picture: its projector and its head are turned up."""
    model = tiny_model(zoom={"score": "question"})
    with torch.no_grad():
        model.projector.weight.mul_(10)
        model.language.lm_head.weight.mul_(30)
    return model
