"""Everything worth knowing of this project on one GPU, in under ten minutes; see `python -m benchmarks.gpu --help`."""
