"""What the engine tells, as OpenAI's objects: a whole answer, or the chunks of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dragonfly_lit.serving.forms import ChatRequest
from dragonfly_lit.serving.sampling import Chosen
from dragonfly_lit.serving.tickets import Done, Piece


class Answers:
    """Writes what the engine tells as OpenAI's objects.

    Args:
        asked: the request.
        model: its name.
        prompt_tokens: that its conversation has.
        tokenizer: of the model, for the texts of tokens.
        identity: of the answer.
        created: in seconds since 1970.
        prepared: seconds that decoding and cutting took.
        image_tokens: of an image at each level.
    """

    def __init__(
        self,
        asked: ChatRequest,
        *,
        model: str,
        prompt_tokens: int,
        tokenizer: Any,
        identity: str,
        created: int,
        prepared: float,
        image_tokens: Mapping[str, int],
    ) -> None:
        self.prepared, self.image_tokens = prepared, image_tokens
        self.asked, self.prompt_tokens, self.tokenizer = asked, prompt_tokens, tokenizer
        self._head = {"id": identity, "created": created, "model": model}

    def whole(self, pieces: Sequence[Piece], done: Done) -> dict[str, Any]:
        """All answers at once."""
        choices = []
        for index in range(self.asked.n or 1):
            own = [piece for piece in pieces if piece.choice == index]
            text = "".join(piece.text for piece in own)
            choices.append(
                {
                    "index": index,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": self._logprobs([token for piece in own for token in piece.tokens]),
                    "finish_reason": own[-1].reason,
                }
            )
        return self._head | {
            "object": "chat.completion",
            "choices": choices,
            "usage": self.usage(done),
            **self._zoom(done),
        }

    def opening(self) -> list[dict[str, Any]]:
        """The first chunks of a stream, which say who speaks."""
        return [
            self._chunk([{"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            for index in range(self.asked.n or 1)
        ]

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A chunk of a stream."""
        choice: dict[str, Any] = {
            "index": piece.choice,
            "delta": {"content": piece.text} if piece.text or piece.reason is None else {},
            "finish_reason": piece.reason,
        }
        if self.asked.logprobs:
            choice["logprobs"] = self._logprobs(piece.tokens)
        return self._chunk([choice])

    def closing(self, done: Done) -> list[dict[str, Any]]:
        """The last chunks, as far as they are asked for."""
        more = self._zoom(done)
        if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
            more["usage"] = self.usage(done)
        return [self._chunk([]) | more] if more else []

    def usage(self, done: Done) -> dict[str, Any]:
        """How many tokens it took."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": done.num_answered,
            "total_tokens": self.prompt_tokens + done.num_answered,
            "prompt_tokens_details": {"cached_tokens": done.known},
        }

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk", "choices": choices}

    def _zoom(self, done: Done) -> dict[str, Any]:
        if not self.asked.zoom:
            return {}
        seconds = {"prepared": self.prepared, "queued": done.queued, "first_token": done.first, "total": done.total}
        return {
            "zoom": list(done.zoom),
            "image_tokens": dict(self.image_tokens),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
        }

    def _logprobs(self, tokens: Sequence[Chosen]) -> dict[str, Any] | None:
        if not self.asked.logprobs:
            return None
        return {"content": [self._token(token) for token in tokens], "refusal": None}

    def _token(self, token: Chosen) -> dict[str, Any]:
        top = [self._text(word) | {"logprob": logprob} for word, logprob in token.likeliest]
        return self._text(token.word) | {"logprob": token.logprob, "top_logprobs": top}

    def _text(self, word: int) -> dict[str, Any]:
        text = self.tokenizer.decode([word])
        # A part of a character has no text of its own, and which bytes it is only some tokenizers can say.
        return {"token": text, "bytes": None if "\ufffd" in text else list(text.encode())}
