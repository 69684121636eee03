"""One new token a row at a time, on a cache whose places are fixed: on a GPU captured as a CUDA graph and replayed.

A token of a model of 8 billion weights takes a GPU about 5 ms, and the host about 30 to launch it kernel by kernel. A
graph is launched at once, but reads and writes the same addresses every time. So keys and values lie in buffers that
are allocated once, every row has the same number of places, and a mask says which of them count. Rows and places come
in a few sizes, so that a few graphs serve all batches. Without a GPU the same step runs as it is.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from dragonfly_lit.models.decoding_places import (
    IN_PLACE,
    Buffers,
    NotInPlaceError,
    Places,
    Reading,
    fill,
    layers_of,
    outside_graphs,
    shapes_of,
)
from dragonfly_lit.models.language import last_block_at_ends

log = logging.getLogger(__name__)

DECODINGS = ("auto", "dynamic", "static", "compiled")
IN_SIZES = ("cuda",)
"""Devices on which rows and places come in a few sizes, so that a few graphs serve all batches."""
PLACES = 256
"""There the places of a row are a multiple of it: batches of about one length share a graph."""
MAX_GRAPHS = 12
WORTH_MOVING = 32
"""Rows that go on move together only where at least so many steps may follow: another graph costs about ten."""


class InPlaceDecoder:
    """Decodes a batch whose prompts a model has read; give it one batch after the other, it keeps its graphs.

    Args:
        model: a `DragonflyForConditionalGeneration`; not kept alive by this.
        compiled: whether `torch.compile` fuses what lies between attention and matmuls, for some seconds once.
    """

    def __init__(self, model: Any, *, compiled: bool = False) -> None:
        self._model = weakref.ref(model)
        self.compiled = compiled
        self.rows = self._used = self._left = 0
        self._buffers: Buffers | None = None
        self._steps: dict[tuple[int, int], tuple[Places, Callable[[], None]]] = {}
        self._addresses: tuple[int, ...] = ()
        self._broken = self._tried = self._sized = False
        self._said: set[str] = set()
        self._stream: Any = None
        self._pool: Any = None

    def suits(self) -> bool:
        """Whether the model can be decoded so, as far as can be said before it has read a prompt."""
        try:
            self._check()
        except NotInPlaceError as error:
            self._give_up(error)
        else:
            return not self._broken
        return False

    def start(
        self,
        cache: Cache,
        mask: Bool[Tensor, "rows tokens"],
        position: Int[Tensor, " rows"],
        steps: int,
        owner: Sequence[int] | None = None,
    ) -> bool:
        """Whether this takes over from here. If not, a line was logged why, and `cache` is as it was.

        Args:
            cache: keys and values of the prompts.
            mask: which of its places count.
            position: of each row's next token.
            steps: how many tokens a row may follow at most.
            owner: the row of `cache` that each row begins with; None where they are the same.
        """
        rows, tokens = mask.shape
        if self._broken:
            return False
        try:
            with _plainly():
                self._check()
                self._check_cache(cache, tokens, steps)
                self._sized = mask.device.type in IN_SIZES
                # The last place belongs to nobody: a step that is tried before it is captured writes there.
                wide = tokens + steps + 1
                wide = -(-wide // PLACES) * PLACES if self._sized else wide
                self._make_room(cache, self._rows_of(rows), wide)
                self._now = self._step_of(self._rows_of(rows), wide)
                fill(self._now[0], cache, mask, position, owner)
        except Exception as error:  # whatever a library raises: generation goes on as it did
            self._give_up(error)
            self.forget()
            return False
        self.rows, self._used, self._left, self._may_move = rows, tokens, steps, True
        return True

    def read(
        self, ids: Int[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], positions: Int[Tensor, "rows tokens"]
    ) -> Float[Tensor, "rows words"]:
        """The logits after the rest of every row's prompt, padded on the left where `mask` is not."""
        places, _ = self._now
        (decoder, embed, head), tokens = self._parts(), ids.shape[1]
        assert self._left >= tokens, "more tokens than start() was told"
        with _plainly(), self._in_place(reading=True), last_block_at_ends(decoder, ids):
            part = Reading(places=places, rows=self.rows, start=self._used, end=self._used + tokens)
            before = places.mask[: self.rows, None, : self._used].expand(-1, tokens, -1)
            seen = mask[:, None, :] & torch.ones(tokens, tokens, dtype=torch.bool, device=mask.device).tril()
            hidden = torch.finfo(before.dtype).min
            own = torch.zeros_like(seen, dtype=before.dtype).masked_fill_(~seen, hidden)
            states = decoder(
                inputs_embeds=embed(ids),
                attention_mask=torch.cat([before, own], dim=2)[:, None],
                position_ids=positions,
                use_cache=False,
                places=part,
            ).last_hidden_state
            places.mask[: self.rows, part.start : part.end] = own[:, -1]
            places.place.fill_(part.end)
            places.position[: self.rows] = positions[:, -1] + 1
            self._used, self._left = part.end, self._left - tokens
            return head(states[:, -1])

    def step(self, words: Int[Tensor, " rows"]) -> Float[Tensor, "rows words"]:
        """The logits after one more word a row; a view that the next step overwrites."""
        places, run = self._now
        assert self._left > 0, "more steps than start() was told"
        self._left -= 1
        self._used += 1
        with _plainly():
            places.words[: self.rows].copy_(words)
            run()
        return places.logits[: self.rows]

    def keep(self, rows: Sequence[int]) -> bool:
        """Whether only these rows go on. It may not pay to move them together; then all of them do."""
        if not self._may_move or not self._worth_moving(len(rows)):
            return False
        before, _ = self._now
        try:
            with _plainly():
                after = self._step_of(self._rows_of(len(rows)), before.mask.shape[1])
                chosen = torch.tensor(rows, device=before.mask.device)
                for old, new in chain(
                    zip(before.keys, after[0].keys, strict=True),
                    zip(before.values, after[0].values, strict=True),
                    ((before.mask, after[0].mask), (before.position, after[0].position)),
                ):
                    new[: len(rows)] = old[chosen]
        except Exception as error:
            self._give_up(error)
            self._may_move = False  # the rows stay where they are, and so does their graph
            return False
        self.rows, self._now = len(rows), after
        return True

    def _worth_moving(self, rows: int) -> bool:
        """A graph for half the rows costs about ten steps; without one, moving costs less than a step of all rows."""
        if self._sized:
            return self._left >= WORTH_MOVING and 2 * self._rows_of(rows) <= self._rows_of(self.rows)
        return 4 * rows <= 3 * self.rows

    def _rows_of(self, rows: int) -> int:
        return _rounded(rows) if self._sized else rows

    # What a batch needs -----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Raises where the model is in a state in which its step cannot be repeated."""
        decoder, _, head = self._parts()
        weights = list(chain(decoder.parameters(), decoder.buffers(), head.parameters()))
        device = weights[0].device
        if any(weight.device != device for weight in weights):
            raise NotInPlaceError("the language model lies on several devices")
        if decoder.training:
            raise NotInPlaceError("the language model is in training mode")
        if torch.is_autocast_enabled(device.type):
            raise NotInPlaceError("autocast casts the weights again at every step")
        if any(module._forward_hooks or module._forward_pre_hooks for module in decoder.modules()):
            raise NotInPlaceError("hooks of the language model (shards, recorders) would not be called")
        # A graph has the weights' addresses: weights put elsewhere, other adapters and other buffers need another one.
        addresses = tuple(weight.data_ptr() for weight in weights)
        if addresses != self._addresses:
            self.forget()
            self._addresses, self._broken, self._tried = addresses, False, False

    def _check_cache(self, cache: Cache, tokens: int, steps: int) -> None:
        """Raises where a cache of fixed places would not hold what this one does."""
        for layer in layers_of(cache):
            keys = getattr(layer, "keys", None)
            if not isinstance(keys, Tensor) or keys.shape[-2] != tokens:
                raise NotInPlaceError(f"a cache of {type(layer).__name__} does not hold every token")
        window = getattr(self._parts()[0].config, "sliding_window", None)
        if window is not None and tokens + steps > window:
            raise NotInPlaceError(f"{tokens + steps} tokens exceed the language model's sliding_window={window}")

    def forget(self) -> None:
        """Give back the memory of the cache and the graphs."""
        self._steps.clear()
        self._buffers = self._pool = self._stream = None

    def _make_room(self, cache: Cache, rows: int, wide: int) -> None:
        head, like = self._parts()[2], layers_of(cache)[0].keys
        have = self._buffers
        if (
            have is not None
            and have.tokens >= rows * wide
            and have.rows >= rows
            and have.shapes == shapes_of(cache)
            and have.mask.dtype == like.dtype
        ):
            return
        least = (0, 0) if have is None else (have.tokens, have.rows)
        have = None
        self.forget()
        self._buffers = Buffers(cache, max(rows * wide, least[0]), max(rows, least[1]), head, like.dtype)

    def _parts(self) -> tuple[PreTrainedModel, nn.Module, nn.Linear]:
        model = self._model()
        assert model is not None
        return model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()

    # The step ---------------------------------------------------------------------------------------------------------

    def _step_of(self, rows: int, wide: int) -> tuple[Places, Callable[[], None]]:
        found = self._steps.get((rows, wide))
        if found is None:
            assert self._buffers is not None
            places = self._buffers.seen_as(rows, wide)
            found = places, self._capture(places)
            while len(self._steps) >= MAX_GRAPHS:
                self._steps.pop(next(iter(self._steps)))
            self._steps[rows, wide] = found
        return found

    def _capture(self, places: Places) -> Callable[[], None]:
        """A step of this size: a graph's replay on a GPU, else the plain call, tried once in either case."""

        def run() -> None:
            with self._in_place():
                self._run(places if self._sized else places.until(self._used))

        if self._tried and not self._sized:
            return run
        used, self._used = self._used, places.mask.shape[1]
        small = (places.mask, places.position, places.place)
        before = [tensor.clone() for tensor in small]
        places.place.fill_(places.mask.shape[1] - 1)
        if not places.mask.is_cuda:
            run()
            replay = run
        else:
            device = places.mask.device
            stream = self._stream = self._stream or torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(3 if self.compiled else 1):
                    run()
                    places.place.sub_(1)
            torch.cuda.current_stream(device).wait_stream(stream)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # Threads beside this one prepare images; what they do with the GPU is not part of the graph. A capture that
            # fails leaves its stream behind as the current one; the outer block does not.
            with (
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"),
            ):
                run()
            replay = graph.replay
        for tensor, was in zip(small, before, strict=True):
            tensor.copy_(was)
        self._used, self._tried = used, True
        return replay

    def _run(self, places: Places) -> None:
        decoder, embed, head = self._parts()
        places.mask.index_fill_(1, places.place, 0.0)  # a token sees itself
        hidden = decoder(
            inputs_embeds=embed(places.words[:, None]),
            # A mask of four axes is handed through by transformers as it is.
            attention_mask=places.mask[:, None, None, :],
            position_ids=places.position[:, None],
            use_cache=False,
            places=places,
        ).last_hidden_state
        places.logits.copy_(head(hidden[:, -1]))
        places.place.add_(1)
        places.position.add_(1)

    @contextmanager
    def _in_place(self, *, reading: bool = False) -> Iterator[None]:
        """The language model attends in place; the blocks of a step are compiled where that was asked for."""
        compiled = self.compiled and not reading
        decoder = self._parts()[0]
        blocks = [block for part in decoder.children() if isinstance(part, nn.ModuleList) for block in part]
        config, name = decoder.config, decoder.config._attn_implementation
        calls = [getattr(block, "_compiled_call_impl", None) for block in blocks]
        try:
            config._attn_implementation = outside_graphs() if compiled else IN_PLACE
            for block in blocks:
                # What was compiled for training has other lengths; a step is compiled for itself or not at all.
                block._compiled_call_impl = torch.compile(block._call_impl) if compiled else None
            yield
        finally:
            config._attn_implementation = name
            for block, call in zip(blocks, calls, strict=True):
                block._compiled_call_impl = call

    def _give_up(self, error: Exception) -> None:
        """Says once why tokens come one launch after the other."""
        what = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, torch.OutOfMemoryError):
            what = "no memory is left for a cache of fixed places; fewer rows or tokens at once need less"
        elif not isinstance(error, NotInPlaceError):
            self._broken = True
        if what not in self._said:
            self._said.add(what)
            log.warning("decoding without a static cache and CUDA graphs, token by token: %s", what[:200])


def _rounded(rows: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most half as many rows again."""
    power = 1 << (rows - 1).bit_length()
    return power * 3 // 4 if power >= 4 and rows <= power * 3 // 4 else power


@contextmanager
def _plainly() -> Iterator[None]:
    """Without gradients, and no inference mode either: the buffers are written to in later calls of any mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield
