"""Pretrain the tiny vision tower and language model that `model=tiny` starts from: `python -m data_prep backbones --help`."""

from data_prep.backbones.command import main

__all__ = ["main"]
