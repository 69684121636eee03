"""What a Prometheus server asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from dragonfly_lit.serving.engine import Engine
from dragonfly_lit.serving.tickets import Done

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Numbers of one server.

    Args:
        engine: whose state is asked whenever they are read.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dragonfly_requests", "Requests for an answer, by the status of HTTP.", ["status"], registry=self.registry
        )
        self.first = Histogram(
            "dragonfly_first_token_seconds",
            "From a request to its first token.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.total = Histogram(
            "dragonfly_answer_seconds",
            "From a request to the end of its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(_OfEngine(engine))

    def note(self, done: Done) -> None:
        """An answer has ended."""
        self.first.observe(done.first)
        self.total.observe(done.total)

    def text(self) -> bytes:
        """All of them, in Prometheus' form."""
        return generate_latest(self.registry)


class _OfEngine:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Any]:
        engine, counts = self.engine, self.engine.counts
        now = {
            "active_answers": (engine.num_active, "Answers that are being given."),
            "waiting_requests": (engine.num_waiting, "Requests that wait for their turn."),
            "known_images": (len(engine.prefixes), "Images whose keys and values are kept."),
        }
        so_far = {
            "prompt_tokens": (counts.prompt_tokens, "Tokens of prompts."),
            "known_tokens": (counts.known_tokens, "Tokens of prompts that were known from an earlier one."),
            "answered_tokens": (counts.answered_tokens, "Tokens of answers."),
            "cancelled_requests": (counts.cancelled, "Requests whose client went away."),
            "failed_requests": (counts.failed, "Requests that took too long or failed."),
            "steps": (counts.steps, "Passes of the language model over all answers."),
        }
        for name, (value, what) in now.items():
            yield GaugeMetricFamily(f"dragonfly_{name}", what, value=value)
        for name, (value, what) in so_far.items():
            yield CounterMetricFamily(f"dragonfly_{name}", what, value=value)
