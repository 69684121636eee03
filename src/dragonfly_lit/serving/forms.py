"""OpenAI's forms: what a request may say, what an answer and an error look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dragonfly_lit.serving.engine import Done, Piece
from dragonfly_lit.serving.prompts import Message
from dragonfly_lit.serving.sampling import Chosen, Sampling

MAX_MESSAGES, MAX_PARTS, MAX_STOPS, MAX_STOP, MAX_ANSWERS, MAX_LOGPROBS = 256, 256, 4, 200, 128, 20


class ApiError(Exception):
    """An answer that is an error, in OpenAI's form.

    Args:
        status: of HTTP.
        message: one line for whoever asked.
        kind: `type` of the error.
        code: short and fixed, for programs.
        param: the field of the request that it is about.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Form):
    """Words."""

    type: Literal["text"]
    text: str


class ImageAddress(_Form):
    """Where an image is; its detail is the model's to choose."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Form):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageAddress


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(_Form):
    """What is said before the conversation."""

    role: Literal["system", "developer"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS)]
    name: str | None = None


class UserMessage(_Form):
    """A question."""

    role: Literal["user"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]
    name: str | None = None


class AssistantMessage(_Form):
    """An earlier answer; what the clients give back of it beside its text is empty here."""

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS)]
    name: str | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


class StreamOptions(_Form):
    """What a stream has besides the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class TextFormat(_Form):
    """The only form of an answer."""

    type: Literal["text"]


class ZoomForm(_Form):
    """Another zoom than the model's own; what is not said stays as it is."""

    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    score: Literal["pooled", "max", "question"] = "pooled"
    regions: Literal["raster", "spatial"] = "spatial"
    low: bool = True
    medium: bool = True
    high: bool = True


class ChatRequest(_Form):
    """The body of `/v1/chat/completions`. What would change the answer and is not done here must be left neutral."""

    model: str
    messages: Annotated[
        list[Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]],
        Field(min_length=1, max_length=MAX_MESSAGES),
    ]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=MAX_STOP)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=MAX_STOP)]], Field(max_length=MAX_STOPS)]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    zoom: bool | ZoomForm | None = None
    """Not OpenAI's: whether to say which crops were kept, and how long each part took; or how to look."""

    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    # These change nothing here.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def zoom_changes(self) -> dict[str, Any]:
        """Fields of the zoom that the request changes."""
        return self.zoom.model_dump(exclude_unset=True) if isinstance(self.zoom, ZoomForm) else {}

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen: the likeliest ones where nothing is said."""
        top = (self.top_logprobs or 0) if self.logprobs else None
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            logprobs=top,
        )

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def parse(body: bytes) -> ChatRequest:
    """The request that a body is.

    Raises:
        ApiError: it is none; the first thing that is wrong is named.
    """
    try:
        asked = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        # Of a field that has several forms, the one that the request came closest to says most.
        same = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
        first = max(same, key=lambda one: len(one["loc"]))
        where = ".".join(str(part) for part in first["loc"])[:200]
        what = " ".join(str(first["msg"]).split())[:300]
        raise ApiError(400, f"{where}: {what}." if where else f"{what}.", param=where or None) from None
    if asked.messages[-1].role != "user":
        raise ApiError(400, "the last message must be of the role user: it is what is answered.", param="messages")
    if asked.max_tokens and asked.max_completion_tokens and asked.max_tokens != asked.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens differ. Give one of them.", param="max_tokens")
    if asked.top_logprobs and not asked.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true.", param="top_logprobs")
    return asked


def conversation(asked: ChatRequest, open_address: Callable[[str], bytes]) -> list[Message]:
    """The messages of a request.

    Args:
        asked: the request.
        open_address: the file that the address of an image means.
    """
    told = []
    for message in asked.messages:
        role = "system" if message.role == "developer" else message.role
        content: Any = message.content
        parts = (
            (content,)
            if isinstance(content, str)
            else tuple(part.text if part.type == "text" else open_address(part.image_url.url) for part in content)
        )
        told.append(Message(role=role, parts=parts))
    return told


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
            "object": "chat.completion", "choices": choices, "usage": self.usage(done), **self._zoom(done),
        }  # fmt: skip

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
        seconds = {
            "prepared": self.prepared, "queued": done.queued, "first_token": done.first, "total": done.total
        }  # fmt: skip
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
