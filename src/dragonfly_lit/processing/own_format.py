"""A language model's own chat template: what it writes, and which of that is an answer.

A template says how a conversation is written, not where its answers stand. That is learnt once, by letting it write a
conversation of known words, and then held against every conversation: an answer must be found word for word, and the
prompt that asks for it must be, letter for letter, how the conversation begins up to it. What is not exact is refused.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from dragonfly_lit.io.foreign import foreign
from dragonfly_lit.processing.encoding import Branches, Spoken, TokenizedText, TokensAndEnds, branched, mark
from dragonfly_lit.processing.prompts import check_texts, words
from dragonfly_lit.spec.samples import Turn
from dragonfly_lit.spec.tokens import IMAGE, NEWLINE, SpecialIds

WORDS = ("Kwyjibo", "Zenzizen", "Quockerw", "Vorpalin")
"""What the turns of the conversation say from which a template's form is learnt; no template writes such words."""
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_DAY = {"%d": "26", "%m": "07", "%b": "Jul", "%B": "July", "%Y": "2024", "%y": "24", "%A": "Friday", "%a": "Fri"}
"""What templates take for today (Llama's own default), so that a run reads the same tomorrow."""
_TODAY = (
    "{% macro strftime_now(form) %}{{ form"
    + "".join(f".replace('{letter}', '{part}')" for letter, part in _DAY.items())
    + " }}{% endmacro %}{{ '' }}"
)

_Place = tuple[int, int]


def dated(template: str) -> str:
    """The template with `strftime_now` always on the same day, where it asks for the day at all."""
    return _TODAY + template if "strftime_now" in template else template


def add_image_tokens(tokenizer: PreTrainedTokenizerBase, where: str = "chat=own") -> None:
    """Teach a tokenizer the image token and the newline of crops, and nothing that it has a token of its own for.

    Args:
        tokenizer: a fast one.
        where: starts the line of an error.

    Raises:
        ValueError: it says neither how a text ends nor with what rows are filled up.
    """
    tokenizer.add_tokens([t for t in (IMAGE, NEWLINE) if t not in tokenizer.get_vocab()], special_tokens=True)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"{where}: the tokenizer has neither pad_token nor eos_token. Give it one of them.")
        tokenizer.pad_token = tokenizer.eos_token


class OwnFormat:
    """What a template writes.

    Args:
        tokenizer: a fast one that knows the image token and the newline.
        template: Jinja; it runs in transformers' sandbox.
        where: starts the line of an error, as `language.chat=own`.
        in_place: whether images stand where they do in their turns, and not in front.

    Raises:
        ValueError: the template fails, its answers cannot be told exactly from the rest of what it writes, or the
            tokenizer lacks a token.
    """

    name = "own"
    variables: Mapping[str, Any] = {"enable_thinking": False}
    """Of the template, where nothing else is said: answers have no thoughts."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str, *, where: str = "", in_place: bool = False
    ) -> None:
        self.tokenizer, self.template, self.where = tokenizer, template, where or "the chat template"
        self.in_place = in_place
        self.opening: list[int] = []
        self.closing: list[int] = []
        special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        self._structural = sorted(special | set(tokenizer.all_special_tokens), key=lambda t: (-len(t), t))
        self._special = re.compile("|".join(map(re.escape, self._structural)))
        self._has_marks = _MARKS.search(template) is not None
        self._learn()
        self.ids = self._special_ids()

    def _special_ids(self) -> SpecialIds:
        known = self.tokenizer.get_vocab()
        tokenizer: Any = self.tokenizer  # which types its special ids as texts and lists too
        if missing := [token for token in (IMAGE, NEWLINE) if token not in known]:
            raise ValueError(
                f"{self.where}: the tokenizer lacks {', '.join(missing)}. Add them with "
                "dragonfly_lit.processing.own_format.add_image_tokens(tokenizer), and give the language model as many "
                "embeddings; DragonflyForConditionalGeneration.from_backbones enlarges it to fit."
            )
        end_of_turn = known[self.end]
        end = end_of_turn if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        return SpecialIds(
            image=known[IMAGE],
            newline=known[NEWLINE],
            begin=tokenizer.bos_token_id,
            end=end,
            end_of_turn=end_of_turn,
            padding=end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        )

    # What is asked of a format ----------------------------------------------------------------------------------------

    def spoken(self, turns: Sequence[Turn]) -> Spoken:
        check_texts(turns, self._structural)
        text, marks = self.write(self._messages(turns))
        answers = self._answers(text, marks, turns)
        tokenized, token_ends = self._mark(text, answers)
        for start, _ in answers:
            if token_ends[bisect_right(token_ends, start) - 1] != start:
                raise self._inexact_here(f"a token goes over an answer's start in {text[start - 8 : start + 8]!r}")
        ends, found = [0], iter(answers)
        for turn in turns:
            ends.append(bisect_right(token_ends, next(found)[1]) if turn.role == "assistant" else ends[-1])
        return Spoken(tokenized, ends)

    def branches(self, system: Sequence[Turn], pairs: Sequence[Sequence[Turn]]) -> Branches:
        return branched([self.spoken([*system, *pair]).text for pair in pairs], self.ids.image)

    def text(self, turns: Sequence[Turn]) -> str:
        check_texts(turns, self._structural)
        return self._prompt(turns)

    def prompt(self, turns: Sequence[Turn]) -> TokenizedText:
        return self.read(self.text(turns))

    def read(self, text: str) -> TokenizedText:
        return self._mark(text, self._found(text)).text

    # Writing ----------------------------------------------------------------------------------------------------------

    def _prompt(self, asked: Sequence[Turn], **variables: Any) -> str:
        return self.write(self._messages(asked), add_generation_prompt=True, **variables)[0]

    def write(
        self, messages: Sequence[dict[str, Any]], template: str | None = None, **variables: Any
    ) -> tuple[str, list[_Place]]:
        """What the template writes, and where its own marks say that answers are.

        Args:
            messages: with a text as content each.
            template: in place of the format's own.
            variables: of the template, and `add_generation_prompt`. Answers are asked for without thoughts where it
                knows `enable_thinking`, and today is always the same day.

        Raises:
            ValueError: the template fails, or does what its sandbox forbids.
        """
        given = {**self.variables, **variables}
        given = {name: value for name, value in given.items() if value is not None}
        render: Any = render_jinja_template  # typed as giving a text
        with foreign(f"{self.where}: the chat template"), _refusing(self.where):
            texts, marks = render(
                [list(messages)],
                chat_template=dated(template or self.template),
                return_assistant_tokens_mask=self._has_marks,
                **{**self.tokenizer.special_tokens_map, **given},
            )
        return texts[0], [(start, end) for start, end in marks[0]] if marks else []

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        return [{"role": turn.role, "content": words(turn, self.in_place)} for turn in turns]

    # Learning ---------------------------------------------------------------------------------------------------------

    def _learn(self) -> None:
        turns = [Turn(role="assistant" if n % 2 else "user", text=word) for n, word in enumerate(WORDS)]
        text, _ = self.write(self._messages(turns))
        places = [text.find(word) for word in WORDS]
        if places != sorted(places) or -1 in places or any(text.count(word) != 1 for word in WORDS):
            raise self._inexact("it does not write every turn once and in its order")
        ends = [place + len(word) for place, word in zip(places, WORDS, strict=True)]
        self.end = self._end_of_turn(text[ends[1] : places[2]])
        if self._end_of_turn(text[ends[3] :]) != self.end:
            raise self._inexact("its last answer ends otherwise than an earlier one")
        openings = [self._opening(turns[: n + 1], text, ends[n], places[n + 1]) for n in (0, 2)]
        longest_first = sorted(map(re.escape, set(openings)), key=len, reverse=True)
        end = re.escape(self.end)
        self._answer = re.compile(rf"(?:{'|'.join(longest_first)})(?P<words>.*?(?:{end}|\Z))", re.DOTALL)
        start = re.escape(self._start_of_question(text[: places[0]], text[ends[1] : places[2]]))
        self._question = re.compile(
            rf"{start}(?P<words>.*?)(?={'|'.join([end, *longest_first])}|\Z)" if start else r"(?P<words>.*)", re.DOTALL
        )

    def _inexact(self, why: str) -> ValueError:
        return ValueError(
            f"{self.where}: which tokens are an answer cannot be told exactly from this chat template: {why}. Give "
            "language.chat=FILE.jinja with a template that can be, or language.chat=llama3."
        )

    def _end_of_turn(self, behind: str) -> str:
        found = self._special.search(behind)
        if found is None or behind[: found.start()].strip():
            raise self._inexact("it ends an answer without a special token, so an answer would have no end")
        return found[0]

    def _opening(self, asked: Sequence[Turn], text: str, before: int, answer: int) -> str:
        """What stands between a question and its answer: all that the prompt writes there, and not more."""
        for prompt in self._prompts(asked):
            if text.startswith(prompt) and before <= len(prompt) <= answer and not text[len(prompt) : answer].strip():
                opening = prompt[before:]
                break
        else:
            raise self._inexact("the prompt that asks for an answer is not how a finished conversation begins")
        # Of that, what belongs to the answer's own turn: a question's end is found in other places too.
        opening = opening.removeprefix(self.end)
        found = self._special.search(opening)
        opening = opening[found.start() :] if found else opening.lstrip()
        if not opening.strip():
            raise self._inexact("nothing stands between a question and its answer")
        return opening

    def _prompts(self, asked: Sequence[Turn]) -> Iterator[str]:
        """Prompts for the next answer: without thoughts, and as the template writes it where it is told nothing."""
        yield self._prompt(asked)
        yield self._prompt(asked, enable_thinking=None)

    def _start_of_question(self, first: str, later: str) -> str:
        """What stands right before every question."""
        length = next((n for n, (a, b) in enumerate(zip(first[::-1], later[::-1], strict=False)) if a != b), None)
        start = later[len(later) - (min(len(first), len(later)) if length is None else length) :]
        cut = len(later) - len(start)
        for token in self._special.finditer(later):
            if token.start() < cut < token.end():  # not half a token
                start = later[token.end() :]
            elif token.start() >= cut:
                return later[token.start() :]
        return start.lstrip()

    # Reading ----------------------------------------------------------------------------------------------------------

    def _found(self, text: str) -> list[_Place]:
        return [found.span("words") for found in self._answer.finditer(text)]

    def _answers(self, text: str, marks: Sequence[_Place], turns: Sequence[Turn]) -> list[_Place]:
        """Where the answers of a conversation stand in what the template has written, their ends included.

        Args:
            text: the whole conversation.
            marks: what `write` gave beside it.
            turns: of the conversation.

        Raises:
            ValueError: that is not exact.
        """
        asked = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
        if not asked:
            return []
        marked = self._marked(text, marks)
        if marked is not None and len(marked) == len(asked) and self._begins(text, marked, turns, asked):
            return marked
        places = [(start, end) for start, end in self._found(text) if text.endswith(self.end, start, end)]
        if len(places) != len(asked):
            raise self._inexact_here(f"{len(places)} answers are found in place of {len(asked)}")
        for number, (start, end) in zip(asked, places, strict=True):
            if not _says(text[start:end].removesuffix(self.end), words(turns[number], self.in_place)):
                raise self._inexact_here(f"turn {number} is not found as it is")
        if not self._begins(text, places, turns, asked):
            raise self._inexact_here("the prompt that asks for an answer is not how it begins up to that answer")
        return places

    def _marked(self, text: str, marks: Sequence[_Place]) -> list[_Place] | None:
        """The places of the template's own marks, each closed by the end of its turn; None where one is not."""
        places = []
        for start, end in marks:
            end += len(self.end) if text.startswith(self.end, end) else 0
            said = text[start:end].rstrip()
            if not said.endswith(self.end):
                return None
            places.append((start, start + len(said)))
        return places

    def _begins(self, text: str, places: Sequence[_Place], turns: Sequence[Turn], asked: Sequence[int]) -> bool:
        """Whether the prompts for the first and for the last answer are how the conversation begins up to them.

        Not for those between: each would be written from the start again. `_learn` has seen that the form is one.
        """
        return all(
            any(text[: places[number][0]] == prompt for prompt in self._prompts(turns[: asked[number]]))
            for number in {0, len(asked) - 1}
        )

    def _mark(self, text: str, answers: Sequence[_Place]) -> TokensAndEnds:
        first = answers[0][0] if answers else len(text)
        questions = [found.span("words") for found in self._question.finditer(text, 0, first)]
        return mark(self.tokenizer, text, answers, questions if questions or answers else [(0, len(text))])

    def _inexact_here(self, why: str) -> ValueError:
        return ValueError(
            f"{self.where}: answers cannot be told exactly from what the chat template writes of this conversation: "
            f"{why}. Leave the sample out (on_error: skip), take its system turn out, or give another template."
        )

    def __deepcopy__(self, memo: Any) -> OwnFormat:
        return self  # it never changes, and a tokenizer is large


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """What a template raises by its own `raise_exception` is about the conversation, not about the template."""
    try:
        yield
    except TemplateError as error:
        if type(error) is not TemplateError:
            raise
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{where}: the chat template does not take this conversation: {said[:200]}. Leave it out, or give "
            "language.chat=FILE.jinja with another."
        ) from error


def _says(said: str, text: str) -> bool:
    """Whether a template wrote a turn's words and no others: all of them, or those behind its thoughts."""
    said, text = said.strip(), text.strip()
    if said == text:
        return True
    _, closes, behind = text.rpartition("</think>")
    return bool(closes) and (said == behind.strip() or "".join(said.split()) == "".join(text.split()))
