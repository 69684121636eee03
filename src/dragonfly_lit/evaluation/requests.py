"""Generation requests and outputs: prompts with the identity of their images, batches of them, generated texts."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from dragonfly_lit.processing.encoding import TokenizedText
from dragonfly_lit.spec.samples import Turn


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt about some images.

    Attributes:
        id: names it in errors, and seeds it when sampling.
        prompt: words of the user's turn.
        places: where in the prompt its own images stand, in characters before each; empty where all stand before it.
        image_keys: identity of each image; equal keys, equal images.
        read_images: gives the encoded images, called when they are needed.
        max_new_tokens: the answer stops there.
        examples: prompts and answers in front of this one; their images come first among the images.
        example_images: how many images each example has; empty where none has any.
        example_places: where in each example's prompt its images stand, as `places`; empty where all stand before.
        options: texts of one token each, of which the likeliest is the answer; without any the answer is generated.
        texts: whole answers in place of those tokens, one an option; their likelihoods are compared.
        length: what makes long and short texts comparable; see `lengths.LENGTHS`.
    """

    id: str
    prompt: str
    image_keys: tuple[str, ...] = ()
    read_images: Callable[[], Sequence[bytes]] = tuple
    max_new_tokens: int = 16
    examples: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    length: str = "tokens"
    places: tuple[int, ...] = ()
    example_images: tuple[int, ...] = ()
    example_places: tuple[tuple[int, ...], ...] = ()

    def turns(self, answer: str | None = None) -> list[Turn]:
        """The examples as turns, then the question, whose answer is next or given."""
        num_images = self.example_images or (0,) * len(self.examples)
        stands = self.example_places or ((),) * len(self.examples)
        turns: list[Turn] = []
        for (prompt, said), number, places in zip(self.examples, num_images, stands, strict=True):
            asked = Turn(role="user", text=prompt, num_images=number, places=places)
            turns += [asked, Turn(role="assistant", text=said)]
        own = len(self.image_keys) - sum(num_images)
        turns.append(Turn(role="user", text=self.prompt, num_images=own, places=self.places))
        return turns if answer is None else [*turns, Turn(role="assistant", text=answer)]


@dataclass(frozen=True, kw_only=True)
class GenerationOutput:
    """The text, the crops that the zoom kept (one entry an image), and the logarithms of the options' likelihoods."""

    id: str
    text: str
    zoom: list[dict[str, Any]] | None = None
    likelihoods: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class EncodedRequest:
    """A prompt as tokens, without the images in front of it.

    Attributes:
        request: what is asked.
        text: its tokens; those of its images too where they stand in it.
        num_front: images in front.
        inside: whether images stand among the words of the question, so that none is shared with another one.
        endings: the tokens of each text that may follow.
    """

    request: GenerationRequest
    text: TokenizedText
    num_front: int
    inside: bool = False
    endings: tuple[tuple[int, ...], ...] = ()

    @property
    def longest(self) -> int:
        """Tokens that may follow the prompt."""
        return max([self.request.max_new_tokens, *map(len, self.endings)])

    @property
    def rows(self) -> int:
        """Rows of a batch that it takes."""
        return max(1, len(self.endings))


@dataclass(frozen=True, kw_only=True)
class RequestBatch:
    """Questions answered together; `owner[i]` is the position in `groups` of the images of question i."""

    items: tuple[EncodedRequest, ...]
    owner: tuple[int, ...]

    @property
    def leaders(self) -> list[GenerationRequest]:
        """One question for each distinct set of images."""
        first = {group: item.request for item, group in zip(reversed(self.items), reversed(self.owner), strict=True)}
        return [first[group] for group in range(len(first))]

    def only(self, wanted: Container[str]) -> RequestBatch | None:
        """The questions whose ids are wanted; None when there is none."""
        left = [(item, group) for item, group in zip(self.items, self.owner, strict=True) if item.request.id in wanted]
        if not left:
            return None
        numbers = {group: number for number, group in enumerate(dict.fromkeys(group for _, group in left))}
        return RequestBatch(items=tuple(item for item, _ in left), owner=tuple(numbers[group] for _, group in left))
