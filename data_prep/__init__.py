"""Commands that make, check and show the shards that training reads: `python -m data_prep COMMAND --help`."""
