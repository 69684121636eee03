"""Pages: which symbol of which colour is printed on a document, by the symbol's size."""

from __future__ import annotations

from dataclasses import dataclass

from dragonfly_lit.evaluation.benchmarks.probes import Probes


@dataclass(frozen=True, kw_only=True)
class Pages(Probes):
    """The shards that `python -m data_prep pages` writes; every answer is a word, and `meta` is that of the probes."""

    name = "pages"
    title = "Pages: a small symbol amid the text of a document"
    original = "python -m data_prep pages"
    licence = "BSD-3-Clause (scikit-learn's text), Bitstream Vera, OFL-1.1 and BaKoMa (matplotlib's typefaces)"
    expects = "SPLIT/*.tar as `python -m data_prep pages` writes them"
