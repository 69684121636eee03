"""`python -m data_prep backbones`: pretrain the tiny tower and language model that `model=tiny` starts from."""

from data_prep.backbones.command import main

__all__ = ["main"]
