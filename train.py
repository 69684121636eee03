"""Trains one stage of a Dragonfly model: `python train.py stage=1`, `stage=2`; see README.md."""

import sys

import hydra

from dragonfly_lit.app.errors import report_user_errors
from dragonfly_lit.app.overrides import check_types, normalize_overrides


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg) -> float | None:
    """Returns the validation loss, so that a sweeper can optimise it."""
    with report_user_errors("train", job=True):
        from dragonfly_lit.app.train import train  # after composing: a mistyped key is answered at once

        return train(cfg)


if __name__ == "__main__":
    with report_user_errors("train"):
        sys.argv[1:] = normalize_overrides(sys.argv[1:], "train")
        check_types(sys.argv[1:], "train")
        main()
