"""Prompts and images to answers: what questions have in common is computed once, and long ones go first.

A sequence is image tokens, then text, so all questions about the same images share a prefix. Its keys and values are
computed once an image and put into the place of every question; their own words follow, padded between prefix and
text, and the answer after them, each token in its place (`models/decoding`). The mask and the positions make that equal
to answering one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dragonfly_lit.evaluation import lengths, likelihood
from dragonfly_lit.evaluation.batching import RequestPlanner
from dragonfly_lit.evaluation.requests import GenerationOutput, GenerationRequest, RequestBatch
from dragonfly_lit.models.decoding import DECODINGS, InPlaceDecoder
from dragonfly_lit.models.host_reads import LateReads
from dragonfly_lit.models.language import last_block_at_ends
from dragonfly_lit.processing.batches import stack_crops
from dragonfly_lit.processing.crops import Resize, cut
from dragonfly_lit.processing.images import decode
from dragonfly_lit.spec.records import Crops


@dataclass(kw_only=True)
class _Decoding:
    """Rows that are still being answered."""

    cache: Any  # None where the static cache has taken over
    mask: Bool[Tensor, "rows tokens"]
    position: Int[Tensor, " rows"]
    rows: list[int]

    @classmethod
    def after(cls, output: Any, mask: Tensor, positions: Tensor) -> _Decoding:
        """All rows, once the model has read the prompts."""
        rows = list(range(len(mask)))
        return cls(cache=output.past_key_values, mask=mask, position=positions[:, -1] + 1, rows=rows)

    @classmethod
    def in_place(cls, rows: int) -> _Decoding:
        """All rows, once the static cache knows the prompts."""
        none = torch.zeros(rows, 0)
        return cls(cache=None, mask=none.bool(), position=none.sum(1).long(), rows=list(range(rows)))


class BatchGenerator:
    """Answers prompts with a Dragonfly model; greedy unless `temperature` is above 0.

    Args:
        model: a `DragonflyForConditionalGeneration` in evaluation mode.
        processor: its `DragonflyProcessor`.
        batch_tokens: tokens of a batch at most, padding and answers included: bounds the memory of the key-value cache.
        temperature: 0 takes the likeliest token; above, tokens are drawn by a generator of each question's own.
        seed: of the drawing.
        decoding: `static` keeps keys and values in place, and launches a token as one CUDA graph on a GPU; `compiled`
            fuses the graph's small kernels first; `dynamic` lets the cache grow. `auto` is static.
    """

    def __init__(
        self,
        model,
        processor,
        *,
        batch_tokens: int = 32768,
        temperature: float = 0.0,
        seed: int = 0,
        decoding: str = "auto",
    ) -> None:
        if decoding not in DECODINGS:
            raise ValueError(f"decoding={decoding} is unknown. Use one of {', '.join(DECODINGS)}.")
        if batch_tokens < 1 or temperature < 0:
            raise ValueError(
                f"batch_tokens={batch_tokens} must be positive and temperature={temperature} not negative."
            )
        self.model, self.tokenizer = model, processor.tokenizer
        self.resize: Resize = processor.image_processor.resize
        self.layout = model.config.layout
        self.temperature, self.seed = temperature, seed
        self.chat = processor.format
        self.ids = self.chat.ids
        self.never = torch.tensor([self.ids.image], device=model.device)  # a slot without an image has no meaning
        self.image_ids = self.layout.image_ids(self.ids.image, self.ids.newline)
        self.in_place = None if decoding == "dynamic" else InPlaceDecoder(model, compiled=decoding == "compiled")
        self.by_question = self.layout.zoom.score == "question" and self.layout.zoom.selects
        self.planner = RequestPlanner(
            self.chat,
            self.layout,
            model.config.text_config,
            batch_tokens=batch_tokens,
            by_question=self.by_question,
        )
        eos = getattr(model.generation_config, "eos_token_id", None)
        stops = set(eos) if isinstance(eos, list) else {eos} - {None}
        self.stops = stops | {self.ids.end_of_turn, self.ids.end}

    def plan(self, requests: Sequence[GenerationRequest]) -> list[RequestBatch]:
        """All questions in batches, the longest first, those about the same images together.

        Raises:
            ValueError: a question does not fit into the model's context.
        """
        return self.planner.plan(requests)

    def answer(self, batches: Sequence[RequestBatch]) -> Iterator[list[GenerationOutput]]:
        """The outputs of each batch; the images of the next ones are decoded and cut meanwhile."""
        ahead = 2
        with ThreadPoolExecutor(ahead) as pool:
            pending: list[Future] = [pool.submit(self._crops, batch) for batch in batches[:ahead]]
            for number, batch in enumerate(batches):
                crops = pending.pop(0).result()
                if number + ahead < len(batches):
                    pending.append(pool.submit(self._crops, batches[number + ahead]))
                yield self.answer_batch(batch, crops)

    def _crops(self, batch: RequestBatch) -> list[Crops]:
        crops = []
        for request in batch.leaders:
            try:
                crops += [cut(decode(data), self.layout, self.resize) for data in request.read_images()]
            except ValueError as error:
                raise ValueError(f"question {request.id}: {error}") from error
        return crops

    @torch.inference_mode()
    def answer_batch(self, batch: RequestBatch, crops: list[Crops]) -> list[GenerationOutput]:
        """The outputs of one batch, in its order."""
        start = self._start_by_question if self.by_question or batch.items[0].inside else self._start
        logits, state, prefix = start(batch, crops)
        zoom = self._zoom(crops, prefix, len(batch.items[0].request.image_keys))
        if batch.items[0].request.options:
            found = self._of_texts(batch, logits, state) if batch.items[0].endings else self._of_tokens(batch, logits)
            return self._likeliest(batch, found, zoom)
        words = (self._decode if state.cache is not None else self._decode_in_place)(batch, logits, state)
        texts = self.tokenizer.batch_decode(words, skip_special_tokens=True)
        return [
            GenerationOutput(id=item.request.id, text=text.strip(), zoom=zoom[group] if zoom else None)
            for item, text, group in zip(batch.items, texts, batch.owner, strict=True)
        ]

    def _likeliest(self, batch: RequestBatch, found: list[list[float]], zoom: list[Any]) -> list[GenerationOutput]:
        """The likeliest option of each question, the first one of equals."""
        outputs = []
        for item, likely, group in zip(batch.items, found, batch.owner, strict=True):
            best = item.request.options[likely.index(max(likely))]
            outputs.append(
                GenerationOutput(id=item.request.id, text=best, zoom=zoom[group] if zoom else None, likelihoods=likely)
            )
        return outputs

    def _of_tokens(self, batch: RequestBatch, logits: Tensor) -> list[list[float]]:
        """Of each question how likely its options are, each of one token: one pass has read the prompt for all."""
        rows = logits.float().log_softmax(-1).cpu()
        return [
            [round(float(row[self._token_of(option)]), lengths.DIGITS) for option in item.request.options]
            for item, row in zip(batch.items, rows, strict=True)
        ]

    def _of_texts(self, batch: RequestBatch, logits: Tensor, state: _Decoding) -> list[list[float]]:
        """Of each question how likely its whole texts are: the prompt was read once, each text follows it in a row."""
        found = likelihood.of_endings(
            [item.endings for item in batch.items],
            logits=logits,
            mask=state.mask,
            position=state.position,
            cache=state.cache,
            forward=self._forward,
        )
        return [
            [
                lengths.comparable(tokens, text, item.request.length)
                for tokens, text in zip(of_item, item.request.texts, strict=True)
            ]
            for item, of_item in zip(batch.items, found, strict=True)
        ]

    def _token_of(self, option: str) -> int:
        ids = self.tokenizer.encode(option, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(f"scoring=loglikelihood: {option!r} is {len(ids)} tokens of this tokenizer, not one.")
        return ids[0]

    def _start(self, batch: RequestBatch, crops: list[Crops]) -> tuple[Tensor, _Decoding, Any]:
        """The prefix once an image, then the rest of every question on the repeated cache."""
        texts = [item.text.ids for item in batch.items]
        num_shared = min(_num_common(texts), min(map(len, texts)) - 1)
        images = self.image_ids * batch.items[0].num_front
        ids = torch.tensor([images + texts[0][:num_shared]] * len(batch.leaders), device=self.model.device)
        prefix = self._forward(ids, **self._pixels(crops))
        cache = prefix.past_key_values
        rest, mask = self._pad_left([text[num_shared:] for text in texts])
        positions = ids.shape[1] + (mask.cumsum(1) - 1).clamp(min=0)
        before = mask.new_ones(len(texts), ids.shape[1])
        if self._goes_in_place(batch, cache, before, positions[:, 0], rest.shape[1], batch.owner):
            assert self.in_place is not None
            return self.in_place.read(rest, mask, positions), _Decoding.in_place(len(texts)), prefix
        if len(batch.leaders) < len(texts):
            cache.batch_select_indices(torch.tensor(batch.owner, device=self.model.device))
        mask = torch.cat([before, mask], dim=1)
        output = self._forward(rest, mask, positions, past_key_values=cache)
        return output.logits[:, -1], _Decoding.after(output, mask, positions), prefix

    def _start_by_question(self, batch: RequestBatch, crops: list[Crops]) -> tuple[Tensor, _Decoding, Any]:
        """Everything at once, where nothing is shared: the question chooses the crops, or has words before them."""
        images = self.image_ids * batch.items[0].num_front
        ids, mask = self._pad_left([images + item.text.ids for item in batch.items])
        question, _ = self._pad_left([[0] * len(images) + [int(q) for q in item.text.question] for item in batch.items])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        output = self._forward(ids, mask, positions, question_mask=(question == 1) & mask, **self._pixels(crops))
        state = _Decoding.after(output, mask, positions)
        if self._goes_in_place(batch, state.cache, mask, state.position, 0):
            state = _Decoding.in_place(len(mask))
        return output.logits[:, -1], state, output

    def _goes_in_place(
        self,
        batch: RequestBatch,
        cache: Any,
        mask: Tensor,
        position: Tensor,
        rest: int,
        owner: Sequence[int] | None = None,
    ) -> bool:
        """Whether the static cache has taken over what was read, with room for `rest` tokens and the answers."""
        if batch.items[0].endings:
            return False  # the rows that follow a prompt are more than the prompts
        steps = rest + max(item.request.max_new_tokens for item in batch.items) - 1
        return self.in_place is not None and self.in_place.start(cache, mask, position, steps, owner)

    def _forward(self, ids: Tensor, mask: Tensor | None = None, positions: Tensor | None = None, **more: Any) -> Any:
        """One pass that keeps the cache; the last place's logits unless told. Without a mask nothing is padded."""
        if mask is not None:
            more |= {"attention_mask": mask.long(), "position_ids": positions}
        if "logits_to_keep" in more:
            return self.model(input_ids=ids, use_cache=True, **more)
        with last_block_at_ends(self.model.get_decoder(), ids):
            return self.model(input_ids=ids, use_cache=True, logits_to_keep=1, **more)

    def _decode(self, batch: RequestBatch, logits: Float[Tensor, "rows words"], state: _Decoding) -> list[list[int]]:
        outputs: list[list[int]] = [[] for _ in batch.items]
        draws = [self._draw_of(item.request) for item in batch.items]
        while True:
            words = self._choose(logits, [draws[row] for row in state.rows])
            chosen: list[int] = words.tolist()
            going: list[int] = []
            for place, row in enumerate(state.rows):
                word = chosen[place]
                if word in self.stops:
                    continue
                outputs[row].append(word)
                if len(outputs[row]) < batch.items[row].request.max_new_tokens:
                    going.append(place)
            if not going:
                return outputs
            if len(going) < len(state.rows):
                keep = torch.tensor(going, device=words.device)
                state.cache.batch_select_indices(keep)
                state.mask, state.position, words = state.mask[keep], state.position[keep], words[keep]
                state.rows = [state.rows[place] for place in going]
            state.mask = torch.cat([state.mask, state.mask.new_ones(len(going), 1)], dim=1)
            step = self._forward(words[:, None], state.mask, state.position[:, None], past_key_values=state.cache)
            state.cache, logits = step.past_key_values, step.logits[:, -1]
            state.position = state.position + 1

    def _decode_in_place(
        self, batch: RequestBatch, logits: Float[Tensor, "rows words"], state: _Decoding
    ) -> list[list[int]]:
        """The same words on the static cache; rows that have ended go along until it pays to move the others."""
        assert self.in_place is not None
        limits = [item.request.max_new_tokens for item in batch.items]
        steps = max(limits) - 1
        outputs: list[list[int]] = [[] for _ in batch.items]
        draws = [self._draw_of(item.request) for item in batch.items]
        rows, going = state.rows, set(state.rows)
        late = LateReads(logits.device)
        for step in range(steps + 1):
            words = self._choose(logits, [draws[row] for row in rows])
            late.push(rows, words)
            for read, values in late.ready(last=step == steps):
                for row, word in zip(read, values.tolist(), strict=True):
                    if row not in going:
                        continue
                    if word not in self.stops:
                        outputs[row].append(word)
                    if word in self.stops or len(outputs[row]) == limits[row]:
                        going.remove(row)
            if not going:
                break
            kept = [place for place, row in enumerate(rows) if row in going]
            if self.in_place.keep(kept):
                rows, words = [rows[place] for place in kept], words[torch.tensor(kept, device=words.device)]
            logits = self.in_place.step(words)
        return outputs

    def _draw_of(self, request: GenerationRequest) -> torch.Generator | None:
        if self.temperature == 0:
            return None
        seed = hashlib.blake2b(f"{self.seed}/{request.id}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(seed, "big"))

    def _choose(self, logits: Tensor, draws: list[torch.Generator | None]) -> Int[Tensor, " rows"]:
        logits = logits.index_fill(1, self.never, float("-inf"))
        if self.temperature == 0:
            return logits.argmax(-1)
        chances = (logits.float() / self.temperature).softmax(-1).cpu()
        words = [torch.multinomial(row, 1, generator=draw) for row, draw in zip(chances, draws, strict=True)]
        return torch.cat(words).to(logits.device)

    def _pixels(self, crops: list[Crops]) -> dict[str, Tensor]:
        pixels, grids = stack_crops(crops)
        if pixels is None or grids is None:
            return {}
        return {"pixel_values": pixels.to(self.model.device), "image_grids": grids.to(self.model.device)}

    def _pad_left(self, rows: list[list[int]]) -> tuple[Int[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"]]:
        width = max(map(len, rows))
        ids = torch.tensor([[self.ids.padding] * (width - len(row)) + row for row in rows], device=self.model.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.model.device)
        return ids, torch.arange(width, device=self.model.device)[None] >= (width - lengths)[:, None]

    def _zoom(self, crops: list[Crops], output: Any, num_images: int) -> list[list[dict[str, Any]]]:
        """Of each image the crops that were kept, from the forward of the images; scores where crops were selected."""
        if not num_images:
            return []
        entries = output.looks([crop.grids for crop in crops])
        return [entries[start : start + num_images] for start in range(0, len(entries), num_images)]


def _num_common(texts: list[list[int]]) -> int:
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))
