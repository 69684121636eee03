"""`python -m dragonfly_lit.train`: what `dragonfly-train` does, and `train.py` in a clone."""

from dragonfly_lit.app.cli import train

if __name__ == "__main__":
    train()
