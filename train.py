"""Trains one stage of a Dragonfly model: `python train.py stage=1`, `stage=2`; see README.md.

Read on in `src/dragonfly_lit/app/train.py`: check, open the run, build, fit, say how it went.
"""

from dragonfly_lit.app.cli import train

if __name__ == "__main__":
    train()
