"""Answers requests together: they join and leave between two tokens, and each gets what it would get alone.

One thread computes. Between two tokens it takes out who has ended, was cancelled or is late, reads the prompt of who
waits as far as there is room, and goes on. Who comes in and when is decided here, the answers are given in
`answering`; neither knows of HTTP.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.serving.answering import Answering, Counts
from dragonfly_lit.serving.prefixes import Prefixes
from dragonfly_lit.serving.tickets import FullError, LateError, Request, StoppedError, Ticket
from dragonfly_lit.serving.zooms import is_fixed

log = logging.getLogger(__name__)


class Engine:
    """Answers requests with one model.

    Args:
        model: a Dragonfly in evaluation mode.
        processor: its own.
        max_rows: answers that are given at the same time.
        max_waiting: requests beyond those that are being answered.
        cache_tokens: places of the key-value cache: the number of rows times those of the longest one.
        prefix_tokens: tokens of images whose keys and values are kept for the next question about them.
        read_tokens: of prompts that are read between two tokens of the others; one prompt always is.
    """

    def __init__(
        self,
        model: Any,
        processor: DragonflyProcessor,
        *,
        max_rows: int = 16,
        max_waiting: int = 64,
        cache_tokens: int = 32768,
        prefix_tokens: int = 16384,
        read_tokens: int = 2048,
    ) -> None:
        self.max_rows, self.max_waiting, self.cache_tokens = max_rows, max_waiting, cache_tokens
        self.read_tokens = read_tokens
        self.prefixes = Prefixes(prefix_tokens)
        self.fixed_zoom = is_fixed(model)
        self.context = min(_context(model), cache_tokens)
        self.answering = Answering(model, processor, self.prefixes, max_rows=max_rows, cache_tokens=cache_tokens)
        self._waiting: deque[Ticket] = deque()
        self._places = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._last = math.inf
        self._thread = threading.Thread(target=self._run, name="dragonfly-engine", daemon=True)

    # From any thread --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def retire(self, seconds: float) -> None:
        """Take nothing more, finish what can be within so many seconds, fail the rest; returns at once."""
        # No lock: a handler of a signal may interrupt whoever holds it.
        self._last = min(self._last, time.monotonic() + seconds)
        self._stopping = True

    def stop(self) -> None:
        """Fail what is left, and end the thread."""
        self.retire(0.0)
        with self._wake:
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._stopping

    @property
    def counts(self) -> Counts:
        """What has been done since the start."""
        return self.answering.counts

    @property
    def num_active(self) -> int:
        """Answers that are being given."""
        return len(self.answering.active)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, from before its images are decoded until its answer has been sent.

        Raises:
            FullError: there is none.
            StoppedError: the engine goes down.
        """
        with self._wake:
            if self._stopping:
                raise StoppedError("the server is going down.")
            if self._places >= self.max_rows + self.max_waiting:
                seconds = self.answering.mean * self._places / self.max_rows
                raise FullError(min(60, max(1, math.ceil(seconds))))
            self._places += 1
        try:
            yield
        finally:
            with self._wake:
                self._places -= 1

    def submit(self, request: Request) -> Ticket:
        """Hand in a request.

        Raises:
            ValueError: it does not fit into the model's context or the cache, however long it waits.
            StoppedError: the engine goes down.
        """
        if request.num > self.max_rows:
            raise ValueError(f"n={request.num} answers are more than the {self.max_rows} that are given at once.")
        if request.total > self.context or request.num * request.total > self.cache_tokens:
            raise ValueError(
                f"{len(request.prompt)} tokens of the conversation and {request.max_tokens} of each of {request.num} "
                f"answers do not fit: the context is {self.context} tokens, all answers have {self.cache_tokens}."
            )
        ticket = Ticket(request)
        with self._wake:
            if self._stopping:
                raise StoppedError("the server is going down.")
            self._waiting.append(ticket)
            self._wake.notify()
        return ticket

    # In the engine's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                self._answer_all()
        except BaseException as error:  # a bug: nobody is left waiting for it
            log.critical("the engine has stopped", exc_info=error)
            with self._wake:
                self._stopping = True
                left = [*self._waiting, *(row.ticket for row in self.answering.active)]
                self._waiting.clear()
            for ticket in left:
                if ticket.open:
                    why = error if isinstance(error, Exception) else StoppedError("the engine stopped.")
                    self.answering.fail(ticket, why)

    def _answer_all(self) -> None:
        while True:
            with self._wake:
                while not (self._waiting or self.num_active or self._stopping):
                    self._wake.wait()
                if not (self._waiting or self.num_active):
                    break
            self._turn_away()
            self._admit()
            if self.num_active:
                self.answering.step()
            if not self.num_active:
                self.answering.clear()

    def _turn_away(self) -> None:
        """Take out who has gone or is late."""
        now = time.monotonic()
        self.answering.leave([self._ended(row.ticket, now) for row in self.answering.active])
        with self._wake:
            self._waiting = deque(ticket for ticket in self._waiting if not self._ended(ticket, now))

    def _ended(self, ticket: Ticket, now: float) -> bool:
        if ticket.open == 0 and not ticket.cancelled:
            return True  # another of its answers has said why
        if ticket.cancelled:
            self.counts.cancelled += ticket.open > 0
            ticket.open = 0
            return True
        seconds = ticket.request.seconds
        if now - ticket.start > seconds:
            self.answering.fail(ticket, LateError(f"the answer took longer than {seconds:g} s."))
        elif now > self._last:
            self.answering.fail(ticket, StoppedError("the server is going down."))
        return ticket.open == 0

    def _admit(self) -> None:
        """Read the prompts of those who waited longest, as far as there is room and the others can wait."""
        read = 0
        while True:
            with self._wake:
                if not self._waiting or not self.answering.has_room(self._waiting[0]):
                    return
                unread = self._waiting[0].request.prompt.num_unread
                if read and self.num_active and read + unread > self.read_tokens:
                    return
                ticket = self._waiting.popleft()
            read += unread
            if not self._ended(ticket, time.monotonic()):
                self.answering.begin(ticket)


def _context(model: Any) -> int:
    """Tokens that the language model takes, within its sliding window if it has one."""
    config = model.config.get_text_config(decoder=True)
    sizes = (getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None))
    return min((size for size in sizes if size), default=2**31)
