"""Questions about images in a model's tokens, read with any high crops in their places, or hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):
    import torch
    from PIL import Image
    from torch import Tensor

    from dragonfly_lit.models.fusion import fill_slots, slots_of_images
    from dragonfly_lit.models.zoom import crop_regions, select_crops

NEUTRAL = "write a general description of the image."


class Asked:
    """A batch of questions about one image each, in tokens, and a model that reads them with any crops kept.

    Args:
        model: in eval mode, with attention that gives its weights (`eager`).
        processor: its processor.
        questions: of the probes.
        neutral: whether each question is replaced by one that asks for nothing.
    """

    def __init__(self, model: Any, processor: Any, questions: list[Any], *, neutral: bool = False) -> None:
        self.model, self.layout = model, model.config.layout
        images = [Image.open(BytesIO(question.read_images()[0])) for question in questions]
        chats = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": image},
                        {"type": "text", "text": NEUTRAL if neutral else question.text},
                    ],
                },
                {"role": "assistant", "content": question.references[0]},
            ]
            for image, question in zip(images, questions, strict=True)
        ]
        batch = processor.apply_chat_template(
            chats, tokenize=True, return_dict=True, supervise="assistant", padding_side="right"
        )
        self.ids, self.mask, self.labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        self.pixels, self.grids = batch["pixel_values"], batch["image_grids"]
        self.slots = slots_of_images(self.ids, model.config.image_token_id, len(questions), self.layout.num_slots)
        self.first = (self.labels != -100).int().argmax(1) - 1  # where the first word of the answer is foretold
        self.regions = crop_regions(self.layout.zoom, len(questions), self.grids)
        with torch.no_grad():
            num_low_medium = int(self.layout.zoom.low) + self.layout.zoom.num_medium
            features = model._features(self.pixels)
            low, medium, high = features.tensor_split((int(self.layout.zoom.low), num_low_medium), dim=1)
            self.tokens = model._project(low, medium, high)
            self.ranking = model._rank(medium, high, self.grids, None) if self.layout.zoom.selects else None
        per_crop = self.layout.pooled_per_crop
        others, crops = self.tokens.tensor_split((self.tokens.shape[1] - high.shape[1] * per_crop,), dim=1)
        self.others, self.crops = others, crops.unflatten(1, (-1, per_crop))
        self.rows = torch.arange(len(questions))

    def keep(self, scores: Tensor) -> Tensor:
        """Indices (questions, kept) of the best crops under the model's own zoom."""
        return select_crops(scores, self.regions, self.layout.zoom)

    def read(self, kept: Tensor | None = None, crops: Tensor | None = None, **options: Any) -> tuple[Any, Tensor]:
        """What the language model gives with the kept crops, or these ones, in their places; and its logits."""
        shown: Tensor = self.crops if crops is None else crops
        if kept is not None:
            shown = shown[self.rows[:, None], kept]
        tokens = torch.cat([self.others, shown.flatten(1, 2)], dim=1)
        embeddings = fill_slots(self.model.get_input_embeddings()(self.ids), self.slots, tokens)
        output = self.model.get_decoder()(
            inputs_embeds=embeddings, attention_mask=self.mask, use_cache=False, **options
        )
        return output, self.model.get_output_embeddings()(output.last_hidden_state)

    def right(self, logits: Tensor) -> Tensor:
        """Whether each question is answered right, word for word."""
        wanted = self.labels[:, 1:]
        return ((logits[:, :-1].argmax(-1) == wanted) | (wanted == -100)).all(1)

    def likely(self, logits: Tensor) -> Tensor:
        """Logarithm of how likely the right answer is."""
        wanted = self.labels[:, 1:].clamp(min=0)
        found = logits[:, :-1].log_softmax(-1).gather(2, wanted[:, :, None])[:, :, 0]
        return (found * (self.labels[:, 1:] != -100)).sum(1)

    def surest(self, logits: Tensor) -> Tensor:
        """Logarithm of how likely the likeliest first word is."""
        return logits[self.rows, self.first].log_softmax(-1).amax(-1)

    def looked_at(self, output: Any, blocks: slice = slice(None)) -> Tensor:
        """What the last word before the answer pays to each high crop in its place: a mean over blocks and heads."""
        weights = torch.stack(output.attentions[blocks]).mean(dim=(0, 2))[self.rows, self.first]
        places = (self.slots - self.rows[:, None] * self.ids.shape[1])[:, self.others.shape[1] :]
        return weights.gather(1, places).unflatten(1, (-1, self.layout.pooled_per_crop)).sum(-1)

    def depends(self, kept: Tensor | None, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Norm of the gradient of `loss_of(logits)` at the tokens of each high crop in its place."""
        crops = self.crops if kept is None else self.crops[self.rows[:, None], kept]
        crops = crops.detach().clone().requires_grad_()
        _, logits = self.read(None, crops)
        (slope,) = torch.autograd.grad(loss_of(logits).sum(), crops)
        return slope.flatten(2).norm(dim=-1)

    def passes(self) -> Iterator[Tensor]:
        """Kept crops of one pass after the other, until each crop has been kept at least once."""
        zoom = self.layout.zoom
        same = self.regions[:, :, None] == self.regions[:, None, :]
        number = torch.tril(same, diagonal=-1).sum(-1)  # of each crop within its region
        size = int(same[0, 0].sum())
        for start in range(0, size, zoom.top_k):
            start = min(start, size - zoom.top_k)
            yield self.keep(((number >= start) & (number < start + zoom.top_k)).float())


def hidden_from(asked: Asked, kept: Tensor, block: int, in_places: Tensor | None = None) -> Tensor:
    """Logits where this block and those behind it see these places of high crops only.

    Args:
        asked: the questions.
        kept: (questions, seen), the places that are seen.
        block: the first one that sees no other.
        in_places: (questions, places), the crops that lie in the places; all of them in their order if None.
    """
    lying = asked.crops.shape[:2] if in_places is None else in_places.shape
    seen = torch.zeros(lying, dtype=torch.bool).scatter(1, kept, True)
    gone = ~seen.repeat_interleave(asked.layout.pooled_per_crop, dim=1)
    places = (asked.slots - asked.rows[:, None] * asked.ids.shape[1])[:, asked.others.shape[1] :]
    hidden = torch.zeros(asked.ids.shape, dtype=torch.bool).scatter(1, places, gone)

    def hide(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = options["attention_mask"]
        options["attention_mask"] = mask.masked_fill(hidden[:, None, None, :], torch.finfo(mask.dtype).min)
        return args, options

    hooks = [
        block.register_forward_pre_hook(hide, with_kwargs=True) for block in asked.model.get_decoder().layers[block:]
    ]
    try:
        return asked.read(in_places)[1]
    finally:
        for hook in hooks:
            hook.remove()
