"""What a format's module gives: turns, and images that are still names in a folder or encoded bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from dragonfly_lit.spec.records import Role, Turn
from dragonfly_lit.spec.tokens import STRUCTURAL

PLACEHOLDER = "<image>"
ROLES: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line may ask of a format.

    Attributes:
        split: of the formats that keep all splits in one file: `train`, `test` or `all`.
        language: of the bilingual ones: `en`, `zh` or `all`.
        share_image: whether all questions about one image become one sample.
        prompt: the user's turn of a caption.
    """

    split: str = "train"
    language: str = "en"
    share_image: bool = False
    prompt: str = "Describe the image."


@dataclass(frozen=True, kw_only=True)
class RawConversation:
    """A record to be: `images` are names within the image folder, or encoded images."""

    name: str
    turns: tuple[Turn, ...]
    images: tuple[str | bytes, ...] = ()
    share_image: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)


def finish(
    name: str, turns: Iterable[Turn], images: Sequence[str | bytes], *, share_image: bool = False, **meta: Any
) -> RawConversation:
    """A conversation whose images belong to its turns: with the first user turn when no turn says where.

    Raises:
        ValueError: nothing to learn from, special tokens in the text, or placeholders and images differ in number.
    """
    turns = list(turns)
    if not any(turn.role == "assistant" and turn.text for turn in turns):
        raise ValueError("no turn of the assistant has a text: nothing to learn from.")
    for token in STRUCTURAL:
        if any(token in turn.text for turn in turns):
            raise ValueError(f"a turn contains the special token {token}, which would be read as structure.")
    placeholders = sum(turn.num_images for turn in turns)
    if not placeholders and images:
        first = next((i for i, turn in enumerate(turns) if turn.role == "user"), 0)
        turns[first] = Turn(role=turns[first].role, text=turns[first].text, num_images=len(images))
    elif placeholders != len(images):
        raise ValueError(f"{placeholders} image placeholders but {len(images)} images; they must be equal.")
    kept = {key: value for key, value in meta.items() if value not in (None, "", [])}
    return RawConversation(name=name, turns=tuple(turns), images=tuple(images), share_image=share_image, meta=kept)


def turns_of(messages: Any) -> list[Turn]:
    """Turns of ShareGPT's `from`/`value` or OpenAI's `role`/`content`; `<image>` in a text counts and is taken out."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError(f"the conversation must be a list of turns, not {messages!r:.60}.")
    return [_turn(message) for message in messages]


def _turn(message: Any) -> Turn:
    if not isinstance(message, Mapping):
        raise ValueError(f"a turn must have a role and a text, not {message!r:.60}.")
    said = message.get("from", message.get("role"))
    role = ROLES.get(str(said))
    if role is None:
        raise ValueError(f"turn of {said!r}: the roles are {', '.join(ROLES)}.")
    content = message.get("value", message.get("content"))
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts, num_images = [], 0
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            num_images += 1
        else:
            raise ValueError(f"turn of {said!r}: a part is a text or an image, not {part!r:.60}.")
    text = "".join(texts)
    return Turn(role=role, text=text.replace(PLACEHOLDER, "").strip(), num_images=num_images + text.count(PLACEHOLDER))


def question_turns(pairs: Iterable[tuple[Any, Any]]) -> list[Turn]:
    """A user and an assistant turn for each pair of question and answer; numbers become their digits."""
    turns = []
    for question, answer in pairs:
        for what, text in (("question", question), ("answer", answer)):
            if text is None or not str(text).strip():
                raise ValueError(f"the {what} is empty.")
        turns.append(Turn(role="user", text=str(question).strip()))
        turns.append(Turn(role="assistant", text=str(answer).strip()))
    return turns


def by_image(rows: Iterable[Mapping[str, Any]], key: str, options: Options) -> Iterator[list[Mapping[str, Any]]]:
    """Rows in lists: one each, or with `share_image` all that follow one another with the same `row[key]`."""
    if not options.share_image:
        yield from ([row] for row in rows)
        return
    for _, group in groupby(rows, lambda row: row.get(key)):
        yield list(group)


def first_of(row: Mapping[str, Any], names: Sequence[str], what: str) -> Any:
    """The value of the first column of `names` that the row has.

    Raises:
        ValueError: it has none; the columns that are there are listed.
    """
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f"no {what}: looked for {', '.join(names)}; the columns are {', '.join(map(str, row))}.")
