"""Metrics over the questions of a benchmark: torchmetrics classes whose states sum over ranks."""
