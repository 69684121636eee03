"""Turns of a row: of a conversation, of a preference, of a caption; and where an image tag may stand in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dragonfly_lit.spec.rows import Row
from dragonfly_lit.spec.samples import Role, Turn, turn_of_parts
from dragonfly_lit.spec.shard import CHOSEN, PLACEHOLDER, REJECTED, ROLES, SYSTEM

from .conversations import Options

ANSWERS = (CHOSEN, REJECTED)
_INSIDE = f"has {PLACEHOLDER} inside the text. --images-in-place keeps such images there, --images-first moves them."


def turns_of(row: Row, name: str, options: Options) -> list[Turn]:
    """Turns of ShareGPT's `from`/`value` or OpenAI's `role`/`content`; `<image>` in a text counts and is taken out.

    A `system` text beside them comes first.

    Raises:
        RowError: one of them is none, or there is another turn of the system.
    """
    turns = _said(row, name, options)
    if not row.has(SYSTEM):
        return turns
    if any(turn.role == "system" for turn in turns):
        raise row.error(SYSTEM, f"is given, and {name} has a turn of that role. Leave one of them empty.")
    return [make_turn(row, SYSTEM, "system", row.text(SYSTEM), options), *turns]


def _said(row: Row, name: str, options: Options) -> list[Turn]:
    return [_turn(message, options) for message in row.rows(name, "turns")]


def preference_of(row: Row, options: Options) -> tuple[list[Turn], str]:
    """The chosen answer as a turn and the rejected one, of the cells of these names; nothing where there are none.

    Each is a text, a turn, or a list of one turn.

    Raises:
        RowError: one of them is missing, or is something else than an answer.
    """
    if not row.has(CHOSEN, REJECTED):
        return [], ""
    chosen, rejected = (_answer(row, row.pick(name, wanted="a text of the assistant"), options) for name in ANSWERS)
    return [chosen], rejected.text


def _answer(row: Row, name: str, options: Options) -> Turn:
    value = row.values[name]
    if isinstance(value, Mapping):
        inner = Row(values={**row.values, name: [value]}, place=row.place, called=row.called)
        row.read.add(name)
        said = _said(inner, name, options)
    elif isinstance(value, list | tuple):
        said = _said(row, name, options)
    else:
        said = [make_turn(row, name, "assistant", row.text(name, numbers=True), options)]
    if [turn.role for turn in said] != ["assistant"] or not said[0].text.strip():
        raise row.error(name, "must be one answer: a text, or one turn of the assistant.")
    return said[0]


def _turn(message: Row, options: Options) -> Turn:
    said = message.text("from", "role")
    role = ROLES.get(said)
    if role is None:
        raise message.error(message.pick("from", "role"), f"turn of {said!r:.60}: the roles are {', '.join(ROLES)}.")
    given = message.given("value", "content")
    if not given:  # an empty text is a text, which `finish` may allow; null or nothing is not
        name = next((name for name in ("value", "content") if isinstance(message.values.get(name), str)), None)
        if name is None:
            message.pick("value", "content")
        return Turn(role=role, text="")
    name = given[0]
    if isinstance(message.values[name], str):
        text = message.text(name)
    else:
        text = _joined([_part(part, said) for part in message.rows(name, "parts")])
    return make_turn(message, name, role, text, options)


def _part(part: Row, said: str) -> str:
    kind = part.text_or("", "type")
    if kind == "text" and isinstance(part.values.get("text"), str):
        return part.text_or("", "text")
    if kind in ("image", "image_url"):
        return PLACEHOLDER
    raise part.error("type", f"turn of {said!r}: a part is a text or an image, not {kind!r:.60}.")


def _joined(pieces: Sequence[str]) -> str:
    """Pieces of a text behind one another; words that would touch are kept apart by a space."""
    text = ""
    for piece in pieces:
        touch = text and piece and not text[-1].isspace() and not piece[0].isspace()
        text += f" {piece}" if touch else piece
    return text


def make_turn(row: Row, name: str, role: Role, text: str, options: Options) -> Turn:
    """A turn whose `<image>` tags are counted and taken out of its text: images stand before the text of their turn.

    Tags before the text, or behind it, go without a word, as in LLaVA. Tags inside it would say which words belong to
    which image: they are refused unless `options.images_first`, and leave a new line where one was, else a space. With
    `options.images_in_place` every image stays where its tag was.

    Raises:
        RowError: tags inside the text, or any in an answer.
    """
    pieces = text.split(PLACEHOLDER)
    if len(pieces) == 1:
        return Turn(role=role, text=text.strip())
    if role == "assistant":
        raise row.error(name, f"an answer has {PLACEHOLDER}, and only a question has images.")
    if options.images_in_place:
        # White space at the edges of a turn is nobody's; between an image and a word it stays.
        told = [pieces[0].lstrip(), *pieces[1:-1], pieces[-1].rstrip()]
        if not any(piece.strip() for piece in told[1:-1] + told[:1]):
            told = [*[""] * (len(told) - 1), told[-1].lstrip()]
        return turn_of_parts(role, [part for piece in told for part in (None, piece)][1:])
    is_before, is_behind = (not any(piece.strip() for piece in some) for some in (pieces[:-1], pieces[1:]))
    if not (is_before or is_behind or options.images_first):
        raise row.error(name, _INSIDE)
    told = pieces[0]
    for piece in pieces[1:]:
        between = told[len(told.rstrip()) :] + piece[: len(piece) - len(piece.lstrip())]
        told = told.rstrip() + ("\n" if "\n" in between else " ") + piece.lstrip()
    return Turn(role=role, text=told.strip(), num_images=len(pieces) - 1)


def caption_turns(row: Row, options: Options, *names: str) -> list[Turn]:
    """The caption of a row, the first where it has several, as the answer to `options.prompt`."""
    name = row.pick(*names, wanted="a text")
    told = row.texts(name)
    return [
        make_turn(row, "--prompt", "user", options.prompt, options),
        make_turn(row, name, "assistant", told[0], options),
    ]
