"""Which questions are answered together: planned over all of them, so that neither ranks nor a kill change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dragonfly_lit.evaluation import likelihood
from dragonfly_lit.evaluation.requests import EncodedRequest, GenerationRequest, RequestBatch
from dragonfly_lit.processing.encoding import expand_images
from dragonfly_lit.processing.formats import ChatFormat
from dragonfly_lit.spec.layout import Layout


class RequestPlanner:
    """Turns questions into batches of a bounded size, the longest first, those about the same images together.

    Args:
        chat: the format of conversations.
        layout: of the tokens of an image.
        text_config: of the language model, whose context and window bound a question.
        batch_tokens: tokens of a batch at most, padding and answers included.
        by_question: whether the zoom chooses crops for one question, so that none shares its images with another.
    """

    def __init__(
        self, chat: ChatFormat, layout: Layout, text_config: Any, *, batch_tokens: int, by_question: bool
    ) -> None:
        self.chat, self.layout, self.text_config = chat, layout, text_config
        self.batch_tokens, self.by_question = batch_tokens, by_question

    def plan(self, requests: Sequence[GenerationRequest]) -> list[RequestBatch]:
        """All questions in batches.

        Raises:
            ValueError: a question does not fit into the model's context.
        """
        batches: list[RequestBatch] = []
        items: list[EncodedRequest] = []
        owner: list[int] = []
        for group in self._groups(requests):
            for place, item in enumerate(group):
                if items and not self._fits(items, item):
                    batches.append(RequestBatch(items=tuple(items), owner=tuple(owner)))
                    items, owner = [], []
                if not items:
                    number = 0
                elif place == 0:
                    number = owner[-1] + 1
                else:
                    number = owner[-1]
                items.append(item)
                owner.append(number)
        return [*batches, RequestBatch(items=tuple(items), owner=tuple(owner))] if items else batches

    def _groups(self, requests: Sequence[GenerationRequest]) -> list[list[EncodedRequest]]:
        """Questions that share their images, those with most images and the longest text first."""
        groups: dict[Any, list[EncodedRequest]] = {}
        for request in requests:
            item = self._encode(request)
            alone = (request.id,) if self.by_question or item.inside else ()
            groups.setdefault((request.image_keys, *alone), []).append(item)
        for items in groups.values():
            items.sort(key=lambda item: -len(item.text))
        return sorted(groups.values(), key=lambda items: (-len(items[0].request.image_keys), -len(items[0].text)))

    def _encode(self, request: GenerationRequest) -> EncodedRequest:
        try:
            text = self.chat.prompt(request.turns())
            endings = tuple(likelihood.ending(self.chat.spoken(request.turns(each))) for each in request.texts)
        except ValueError as error:
            raise ValueError(f"question {request.id}: {error}") from error
        num_front, inside = len(request.image_keys), self.chat.in_place and bool(request.places)
        if self.chat.in_place:
            text, num_front = expand_images(text, self.layout, self.chat.ids), 0
        item = EncodedRequest(request=request, text=text, endings=endings, num_front=num_front, inside=inside)
        per_image = self.layout.num_tokens
        total = num_front * per_image + len(text) + item.longest
        limit = getattr(self.text_config, "max_position_embeddings", total)
        if total > limit:
            raise ValueError(
                f"question {request.id}: {len(request.image_keys)} images of {per_image} tokens, {len(text)} "
                f"tokens of text and {item.longest} of answer are {total}; the model's context is {limit}. "
                "Shorten the prompt or lower max_new_tokens."
            )
        return item

    def _fits(self, items: Sequence[EncodedRequest], item: EncodedRequest) -> bool:
        """Whether a batch has room for another question."""
        if len(items[0].request.image_keys) != len(item.request.image_keys) or items[0].inside != item.inside:
            return False
        prefix = item.num_front * self.layout.num_tokens
        text = max(len(other.text) for other in (*items, item))
        answer = max(other.longest for other in (*items, item))
        window = getattr(self.text_config, "sliding_window", None)
        if window and prefix + text + answer > window and len(items[0].text) != len(item.text):
            return False  # a window counts places, and padding would take some
        return sum(other.rows for other in (*items, item)) * (prefix + text + answer) <= self.batch_tokens
