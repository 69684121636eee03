"""Shards become batches in an order that is a pure function of small integers."""
