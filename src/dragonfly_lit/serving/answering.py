"""The answers that are being given: a prompt is read and its rows join, every row gets its next token, rows leave.

All of it happens in the engine's thread, which decides who comes in and when.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.serving.prefixes import Prefixes
from dragonfly_lit.serving.reading import Reader
from dragonfly_lit.serving.rows import rows_of, take_out
from dragonfly_lit.serving.sampling import Chosen, Sampler, choose_all
from dragonfly_lit.serving.tickets import Done, Piece, Reason, Ticket
from dragonfly_lit.serving.words import AnswerText

log = logging.getLogger(__name__)


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


class Row:
    """One answer that is being given.

    Args:
        ticket: of its request.
        index: of the answer among those to the request.
        tokenizer: of the model.
    """

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


class Answering:
    """Gives answers with one model.

    Args:
        model: a Dragonfly in evaluation mode.
        processor: its own.
        prefixes: what is known of images that were asked about.
        max_rows: answers at the same time.
        cache_tokens: places of the key-value cache: the number of rows times those of the longest one.

    Attributes:
        active: the rows, in the order of their numbers.
        mean: seconds that a request took lately.
    """

    def __init__(
        self, model: Any, processor: DragonflyProcessor, prefixes: Prefixes, *, max_rows: int, cache_tokens: int
    ) -> None:
        self.max_rows, self.cache_tokens = max_rows, cache_tokens
        self.counts, self.mean = Counts(), 1.0
        self.active: list[Row] = []
        self._prefixes, self.tokenizer = prefixes, processor.tokenizer
        ids = processor.format.ids
        eos = getattr(model.generation_config, "eos_token_id", None)
        self.ends = {ids.end_of_turn, ids.end, *(eos if isinstance(eos, list) else [] if eos is None else [eos])}
        self._never = torch.tensor([ids.image], device=model.device)  # a slot without an image has no meaning
        self.reader, self.rows = Reader(model, prefixes), rows_of(model, cache_tokens)
        self._reserved: list[int] = []

    def has_room(self, ticket: Ticket) -> bool:
        """Whether its rows fit beside those that are here; an empty place takes any."""
        rows = len(self.active) + ticket.request.num
        widest = max([ticket.request.total, *self._reserved])
        return rows <= self.max_rows and (not self.active or rows * widest <= self.cache_tokens)

    def begin(self, ticket: Ticket) -> None:
        """Read a prompt, and give the first token of each of its answers."""
        request, ticket.begun = ticket.request, time.monotonic()
        try:
            read = self.reader.read(request.prompt)
            rows = [Row(ticket, index, self.tokenizer) for index in range(request.num)]
            chosen = choose_all(read.logits.expand(len(rows), -1), [row.sampler for row in rows], self._never)
            ticket.read, ticket.first = (read.zoom, read.known), time.monotonic()
            self.counts.prompt_tokens += len(request.prompt)
            self.counts.known_tokens += read.known
            for row, token in zip(rows, chosen, strict=True):
                if isinstance(token, Exception):
                    raise token
                if row.take(token, self.ends):
                    self.rows.join(read.cache, request.max_tokens)
                    self.active.append(row)
                    self._reserved.append(request.total)
        except Exception as error:
            self._broken([ticket], error)
            self.leave([row.ticket is ticket for row in self.active])
            return
        # Its crops may be many megabytes, and nobody looks at them again.
        request.prompt = replace(request.prompt, crops=(), prefix=None)
        self.report([ticket])

    def step(self) -> None:
        """Give the next token of every row."""
        tickets = list({id(row.ticket): row.ticket for row in self.active}.values())
        try:
            logits = self.rows.step([row.word for row in self.active])
            chosen = choose_all(logits, [row.sampler for row in self.active], self._never)
        except Exception as error:  # all rows are one pass
            self._broken(tickets, error)
            self.active = []
            self.clear()
            return
        self.counts.steps += 1
        going = [self._goes_on(row, token) for row, token in zip(self.active, chosen, strict=True)]
        self.leave([not goes or row.ticket.failed for goes, row in zip(going, self.active, strict=True)])
        self.report(tickets)

    def leave(self, leaving: list[bool]) -> None:
        """Take out the rows that are marked."""
        for row in reversed(range(len(leaving))):  # from the end: the last row gets the number of one that leaves
            if leaving[row]:
                self.rows.leave(row)
                take_out(self.active, row)
                take_out(self._reserved, row)

    def clear(self) -> None:
        """Give back the memory of rows; there are none any more."""
        self.rows.clear()
        self._reserved.clear()

    def fail(self, ticket: Ticket, error: Exception) -> None:
        """End a request without an answer."""
        self.counts.failed += 1
        ticket.fail(error)

    def _goes_on(self, row: Row, token: Chosen | Exception) -> bool:
        """Whether a row goes on; what is wrong with it alone ends its own request and no other."""
        if row.ticket.failed:
            return False
        try:
            if isinstance(token, Exception):
                raise token
            return row.take(token, self.ends)
        except Exception as error:
            self._broken([row.ticket], error)
            return False

    def report(self, tickets: list[Ticket]) -> None:
        """Tell the news of these requests."""
        for ticket in tickets:
            if ticket.failed:
                continue  # which has been told
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
                self.mean += 0.1 * (now - ticket.begun - self.mean)
            if ticket.events and (ticket.request.stream or ticket.open == 0):
                events, ticket.events = ticket.events, []
                ticket.tell(events)

    def _broken(self, tickets: list[Ticket], error: Exception) -> None:
        """Nothing that one request causes ends the others that wait."""
        log.error("a request failed: %s", " ".join(str(error).split())[:500], exc_info=error)
        if isinstance(error, torch.OutOfMemoryError):
            self._prefixes.clear()
        for ticket in tickets:
            if ticket.open:
                self.fail(ticket, error)
