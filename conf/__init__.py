"""The configuration groups of `train.py` and `evaluate.py`; in a wheel they are the package `dragonfly_lit.conf`."""
