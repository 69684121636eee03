"""OpenAI's forms: what a question may say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from dragonfly_lit.serving.errors import ApiError
from dragonfly_lit.serving.prompts import Message
from dragonfly_lit.serving.sampling import Sampling

MAX_MESSAGES, MAX_PARTS, MAX_STOPS, MAX_STOP, MAX_ANSWERS, MAX_LOGPROBS = 256, 256, 4, 200, 128, 20
MAX_COMMAS = 2**16
"""In a body. Values between them become objects of many times their bytes, before any rule can be asked."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Detail = Literal["auto", "low", "high", "original"]
"""OpenAI's word for how closely to look, which is the model's to choose here."""


class TextPart(_Form):
    """Words."""

    type: Literal["text", "input_text"]
    text: str


class ImageAddress(_Form):
    """Where an image is."""

    url: str
    detail: Detail = "auto"


class ImagePart(_Form):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageAddress


class UploadedFile(_Form):
    """A file that was uploaded before."""

    file_id: str


class FilePart(_Form):
    """An image that was uploaded before."""

    type: Literal["file"]
    file: UploadedFile


class InputImagePart(_Form):
    """An image as OpenAI's newer requests say it."""

    type: Literal["input_image"]
    file_id: str | None = None
    image_url: str | None = None
    detail: Detail = "auto"

    @model_validator(mode="after")
    def _names_one(self) -> InputImagePart:
        if (self.file_id is None) == (self.image_url is None):
            raise PydanticCustomError("one_image", "Give either file_id or image_url")
        return self


Part = Annotated[TextPart | ImagePart | FilePart | InputImagePart, Field(discriminator="type")]


def is_web_address(address: str) -> bool:
    """Whether an address is one of the web."""
    return address.lower().startswith(("http://", "https://"))


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _listed(one_or_more: Any) -> Any:
    return [one_or_more] if isinstance(one_or_more, str) else one_or_more


class SystemMessage(_Form):
    """What is said before the conversation."""

    role: Literal["system", "developer"]
    content: Annotated[list[TextPart], BeforeValidator(_parts), Field(min_length=1, max_length=MAX_PARTS)]
    name: str | None = None


class UserMessage(_Form):
    """A question."""

    role: Literal["user"]
    content: Annotated[list[Part], BeforeValidator(_parts), Field(min_length=1, max_length=MAX_PARTS)]
    name: str | None = None


class AssistantMessage(_Form):
    """An earlier answer; what the clients give back of it beside its text is empty here."""

    role: Literal["assistant"]
    content: Annotated[list[TextPart], BeforeValidator(_parts), Field(min_length=1, max_length=MAX_PARTS)]
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
    regions: Literal["raster", "spatial", "image"] = "spatial"
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
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_STOP)]],
            BeforeValidator(_listed),
            Field(max_length=MAX_STOPS),
        ]
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
    def has_addresses(self) -> bool:
        """Whether an image is somewhere on the web."""
        told = (part for message in self.messages for part in message.content)
        return any(
            is_web_address((part.image_url if isinstance(part, InputImagePart) else part.image_url.url) or "")
            for part in told
            if isinstance(part, ImagePart | InputImagePart)
        )

    def without_messages(self) -> ChatRequest:
        """What the answer depends on still, once it has been read: its images may be many megabytes."""
        return self.model_copy(update={"messages": []})

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
        return tuple(self.stop or ())


def parse(body: bytes) -> ChatRequest:
    """The request that a body is.

    Raises:
        ApiError: it is none; the first thing that is wrong is named.
    """
    if body.count(b",") > MAX_COMMAS:
        raise ApiError(400, f"the body has more than {MAX_COMMAS} commas: that is not a question.")
    try:
        asked = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise named(error) from None
    if asked.messages[-1].role != "user":
        raise ApiError(400, "the last message must be of the role user: it is what is answered.", param="messages")
    if asked.max_tokens and asked.max_completion_tokens and asked.max_tokens != asked.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens differ. Give one of them.", param="max_tokens")
    if asked.top_logprobs and not asked.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true.", param="top_logprobs")
    return asked


def named(error: ValidationError) -> ApiError:
    """The first thing that is wrong, and where."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    # Of a field that has several forms, the one that the request came closest to says most.
    same = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    first = max(same, key=lambda one: len(one["loc"]))
    where = _path(first["loc"])
    what = " ".join(str(first["msg"]).split())[:300]
    return ApiError(400, f"{where}: {what}." if where else f"{what}.", param=where or None)


def _path(place: tuple[int | str, ...]) -> str:
    """A place in a request as its sender knows it: pydantic also says which form it took a value for."""
    forms = {"bool", ZoomForm.__name__}
    said = [
        str(step)
        for before, step in zip((None, *place), place, strict=False)
        if isinstance(step, int) or not (isinstance(before, int) or step in forms)
    ]
    return ".".join(said)[:200]


def conversation(
    asked: ChatRequest, *, file_at: Callable[[str], bytes], file_of: Callable[[str], bytes]
) -> list[Message]:
    """The messages of a request.

    Args:
        asked: the request.
        file_at: the file that the address of an image means.
        file_of: the file that was uploaded and has this id.
    """

    def told(part: Part) -> str | bytes:
        match part:
            case TextPart():
                return part.text
            case ImagePart():
                return file_at(part.image_url.url)
            case FilePart():
                return file_of(part.file.file_id)
            case InputImagePart():
                return file_of(part.file_id) if part.file_id is not None else file_at(part.image_url or "")

    return [
        Message(
            role="system" if message.role == "developer" else message.role,
            parts=tuple(told(part) for part in message.content),
        )
        for message in asked.messages
    ]
