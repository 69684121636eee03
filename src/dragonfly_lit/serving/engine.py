"""Answers requests together: they join and leave between two tokens, and each gets what it would get alone.

One thread computes. Between two tokens it takes out who has ended, was cancelled or is late, reads the prompt of who
waits as far as there is room, and goes on. Nothing here knows of HTTP.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.serving.prefixes import Prefixes
from dragonfly_lit.serving.prompts import Prompt
from dragonfly_lit.serving.reading import Reader
from dragonfly_lit.serving.rows import rows_of, take_out
from dragonfly_lit.serving.sampling import Chosen, Sampler, Sampling, choose_all
from dragonfly_lit.serving.words import AnswerText
from dragonfly_lit.serving.zooms import is_fixed

log = logging.getLogger(__name__)

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


class Ticket:
    """A request that was handed in."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.cancelled = False
        self.start = time.monotonic()
        self.begun = self.first = self.start
        self.open, self.num_answered = request.num, 0
        self.read: tuple[tuple[dict[str, Any], ...], int] = ((), 0)
        self.events: list[Event] = []

    def cancel(self) -> None:
        """Nobody wants the answer any more; from any thread, at any time."""
        self.cancelled = True


class _Row:
    """One answer that is being given."""

    def __init__(self, ticket: Ticket, index: int, tokenizer: Any) -> None:
        self.ticket, self.index = ticket, index
        self.sampler = Sampler(ticket.request.sampling, index)
        self.text = AnswerText(tokenizer, ticket.request.stops)
        self.word = self.num = 0
        self._told: list[str] = []
        self._tokens: list[Chosen] = []

    def take(self, chosen: Chosen, ends: set[int]) -> bool:
        """Whether the answer goes on after this token."""
        request, stopped = self.ticket.request, chosen.word in ends
        if not stopped:
            self.word, self.num = chosen.word, self.num + 1
            self.ticket.num_answered += 1
            self._tell(self.text.push(chosen.word), chosen)
            stopped = self.text.stopped
        if not stopped and self.num < request.max_tokens:
            return True
        self._told.append(self.text.finish())
        reason: Reason = "stop" if stopped or self.text.stopped else "length"
        self._give(reason)
        self.ticket.open -= 1
        return False

    def _tell(self, text: str, chosen: Chosen) -> None:
        self._told.append(text)
        if chosen.logprob is not None:
            self._tokens.append(chosen)
        if self.ticket.request.stream and text:
            self._give(None)

    def _give(self, reason: Reason | None) -> None:
        self.ticket.events.append(Piece(self.index, "".join(self._told), tuple(self._tokens), reason))
        self._told, self._tokens = [], []


@dataclass(kw_only=True)
class Counts:
    """What has been done since the start.

    Attributes:
        prompt_tokens: that were in prompts.
        known_tokens: of them, that were known from an earlier prompt.
        answered_tokens: that were given.
        cancelled: requests.
        failed: requests.
        steps: passes of the language model over all rows.
    """

    prompt_tokens: int = 0
    known_tokens: int = 0
    answered_tokens: int = 0
    cancelled: int = 0
    failed: int = 0
    steps: int = 0


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
        self.counts = Counts()
        self._tokenizer = processor.tokenizer
        ids = processor.format.ids
        eos = getattr(model.generation_config, "eos_token_id", None)
        self._ends = {ids.end_of_turn, ids.end, *(eos if isinstance(eos, list) else [] if eos is None else [eos])}
        self._never = torch.tensor([ids.image], device=model.device)  # a slot without an image has no meaning
        self.fixed_zoom = is_fixed(model)
        self._reader, self._rows = Reader(model, self.prefixes), rows_of(model, cache_tokens)
        self._active: list[_Row] = []
        self._reserved: list[int] = []
        self._waiting: deque[Ticket] = deque()
        self._places = 0
        self._mean = 1.0
        self._wake = threading.Condition()
        self._stopping = False
        self._last = math.inf
        self._thread = threading.Thread(target=self._run, name="dragonfly-engine", daemon=True)
        self.context = min(_context(model), cache_tokens)

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
    def num_active(self) -> int:
        """Answers that are being given."""
        return len(self._active)

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
                raise FullError(min(60, max(1, math.ceil(self._mean * self._places / self.max_rows))))
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
        total = len(request.prompt) + request.max_tokens
        if request.num > self.max_rows:
            raise ValueError(f"n={request.num} answers are more than the {self.max_rows} that are given at once.")
        if total > self.context or request.num * total > self.cache_tokens:
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
                left = [*self._waiting, *(row.ticket for row in self._active)]
                self._waiting.clear()
            for ticket in left:
                if ticket.open:
                    self._fail(ticket, error if isinstance(error, Exception) else StoppedError("the engine stopped."))

    def _answer_all(self) -> None:
        while True:
            with self._wake:
                while not (self._waiting or self._active or self._stopping):
                    self._wake.wait()
                if not (self._waiting or self._active):
                    break
            self._turn_away()
            self._admit()
            if self._active:
                self._step()
            if not self._active:
                self._rows.clear()
                self._reserved.clear()

    def _turn_away(self) -> None:
        """Take out who has gone or is late."""
        now = time.monotonic()
        for row in reversed(range(len(self._active))):
            ticket = self._active[row].ticket
            if self._ended(ticket, now):
                self._leave(row)
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
            self._fail(ticket, LateError(f"the answer took longer than {seconds:g} s."))
        elif now > self._last:
            self._fail(ticket, StoppedError("the server is going down."))
        return ticket.open == 0

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self.counts.failed += 1
        ticket.open, ticket.events = 0, []
        self._tell(ticket, [Failed(error)])

    def _tell(self, ticket: Ticket, events: list[Event]) -> None:
        try:
            ticket.request.listener(events)
        except Exception:  # whoever listens may be gone; the others are still here
            ticket.cancel()

    def _admit(self) -> None:
        """Read the prompts of those who waited longest, as far as there is room and the others can wait."""
        read = 0
        while True:
            with self._wake:
                if not self._waiting or not self._fits(self._waiting[0].request):
                    return
                if read and self._active and read + self._unread(self._waiting[0]) > self.read_tokens:
                    return
                ticket = self._waiting.popleft()
            read += self._unread(ticket)
            if not self._ended(ticket, time.monotonic()):
                self._begin(ticket)

    def _unread(self, ticket: Ticket) -> int:
        prompt = ticket.request.prompt
        return len(prompt) - (prompt.num_shared if prompt.prefix is not None else 0)

    def _fits(self, request: Request) -> bool:
        rows = len(self._active) + request.num
        widest = max([len(request.prompt) + request.max_tokens, *self._reserved])
        return rows <= self.max_rows and (not self._active or rows * widest <= self.cache_tokens)

    def _begin(self, ticket: Ticket) -> None:
        request, ticket.begun = ticket.request, time.monotonic()
        try:
            read = self._reader.read(request.prompt)
            rows = [_Row(ticket, index, self._tokenizer) for index in range(request.num)]
            chosen = choose_all(read.logits.expand(len(rows), -1), [row.sampler for row in rows], self._never)
            ticket.read, ticket.first = (read.zoom, read.known), time.monotonic()
            self.counts.prompt_tokens += len(request.prompt)
            self.counts.known_tokens += read.known
            for row, word in zip(rows, chosen, strict=True):
                if row.take(word, self._ends):
                    self._rows.join(read.cache, request.max_tokens)
                    self._active.append(row)
                    self._reserved.append(len(request.prompt) + request.max_tokens)
        except Exception as error:
            self._broken([ticket], error)
            for row in reversed(range(len(self._active))):
                if self._active[row].ticket is ticket:
                    self._leave(row)
            return
        self._report([ticket])

    def _step(self) -> None:
        tickets = list({id(row.ticket): row.ticket for row in self._active}.values())
        try:
            logits = self._rows.step([row.word for row in self._active])
            chosen = choose_all(logits, [row.sampler for row in self._active], self._never)
        except Exception as error:
            self._broken(tickets, error)
            self._active, self._reserved = [], []
            self._rows.clear()
            return
        self.counts.steps += 1
        going = [row.take(word, self._ends) for row, word in zip(self._active, chosen, strict=True)]
        for row in reversed(range(len(going))):
            if not going[row]:
                self._leave(row)
        self._report(tickets)

    def _leave(self, row: int) -> None:
        self._rows.leave(row)
        take_out(self._active, row)
        take_out(self._reserved, row)

    def _report(self, tickets: list[Ticket]) -> None:
        """Tell the news of these requests."""
        for ticket in tickets:
            if ticket.open == 0:
                now = time.monotonic()
                zoom, known = ticket.read
                ticket.events.append(
                    Done(
                        num_answered=ticket.num_answered,
                        known=known,
                        zoom=zoom,
                        queued=ticket.begun - ticket.start,
                        first=ticket.first - ticket.start,
                        total=now - ticket.start,
                    )
                )
                self.counts.answered_tokens += ticket.num_answered
                self._mean += 0.1 * (now - ticket.begun - self._mean)
            if ticket.events and (ticket.request.stream or ticket.open == 0):
                events, ticket.events = ticket.events, []
                self._tell(ticket, events)

    def _broken(self, tickets: list[Ticket], error: Exception) -> None:
        """Nothing that one request causes ends the others that wait."""
        log.error("a request failed: %s", " ".join(str(error).split())[:500], exc_info=error)
        if isinstance(error, torch.OutOfMemoryError):
            self.prefixes.clear()
        for ticket in tickets:
            if ticket.open:
                self._fail(ticket, error)


def _context(model: Any) -> int:
    """Tokens that the language model takes, within its sliding window if it has one."""
    config = model.config.get_text_config(decoder=True)
    sizes = (getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None))
    return min((size for size in sizes if size), default=2**31)
