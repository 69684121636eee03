"""What the engine is asked, and what it tells: requests, their tickets, and the events of an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dragonfly_lit.serving.prompts import Prompt
from dragonfly_lit.serving.sampling import Chosen, Sampling

Reason = Literal["stop", "length"]


class Piece(NamedTuple):
    """Text of one of the answers, and the tokens that it was made of; or its end."""

    choice: int
    text: str
    tokens: tuple[Chosen, ...] = ()
    reason: Reason | None = None


class Done(NamedTuple):
    """All answers have ended."""

    num_answered: int
    known: int
    zoom: tuple[dict[str, Any], ...]
    queued: float
    first: float
    total: float


class Failed(NamedTuple):
    """There will be no answer, or no more of it."""

    error: Exception


Event = Piece | Done | Failed


class FullError(Exception):
    """No more requests are taken now; `retry_after` says in how many seconds some may be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the server has as many requests as it takes. Try again in {retry_after} s.")
        self.retry_after = retry_after


class LateError(Exception):
    """A request took longer than it may."""


class StoppedError(Exception):
    """The server is going down."""


@dataclass(kw_only=True)
class Request:
    """A question to the engine.

    Attributes:
        prompt: what the model reads.
        listener: gets the events of every token, in the engine's thread; it must return at once.
        sampling: how tokens are chosen.
        max_tokens: of each answer.
        num: how many answers.
        stops: texts that end an answer.
        seconds: that it may take.
        stream: whether text is told as it comes; else at the end.
    """

    prompt: Prompt
    listener: Callable[[list[Event]], None]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    num: int = 1
    stops: tuple[str, ...] = ()
    seconds: float = math.inf
    stream: bool = False

    @property
    def total(self) -> int:
        """Tokens that each of its answers takes with the prompt."""
        return len(self.prompt) + self.max_tokens


class Ticket:
    """A request that was handed in."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.cancelled = False
        self.start = time.monotonic()
        self.begun = self.first = self.start
        self.open, self.num_answered, self.failed = request.num, 0, False
        self.read: tuple[tuple[dict[str, Any], ...], int] = ((), 0)
        self.events: list[Event] = []

    def cancel(self) -> None:
        """Nobody wants the answer any more; from any thread, at any time."""
        self.cancelled = True

    def tell(self, events: list[Event]) -> None:
        """Give events to whoever listens."""
        try:
            self.request.listener(events)
        except Exception:  # whoever listens may be gone; the others are still here
            self.cancel()

    def fail(self, error: Exception) -> None:
        """End it without an answer, or in the middle of one."""
        self.open, self.events, self.failed = 0, [], True
        self.tell([Failed(error)])
