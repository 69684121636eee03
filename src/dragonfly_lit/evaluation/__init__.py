"""Benchmarks, their metrics and their reports."""
