"""Your own parts: one file each, named by `_target_` in a file of `conf/`."""
