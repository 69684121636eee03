"""Prompt templates: how the words of a question become the prompt."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import accumulate
from string import Formatter, ascii_uppercase
from typing import Any

from dragonfly_lit.evaluation.question import Question

FIELDS = ("context", "question", "options", "ocr")
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
"""LLaVA-1.5's instructions for short answers and for multiple choice."""
CHOICES = f"{{context}}{{question}}\n{{options}}{LETTER}"
"""The form of a question with choices where a set's default shows none."""


NUMBERED = re.compile(r"<image (\d+)>")
"""The name of an image in a question, by its number from 1."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """The prompt of one benchmark.

    Attributes:
        text: has the fields `{context}`, `{question}`, `{options}` and `{ocr}`. All but the question are empty where
            the data has none, and end in a new line where it has: `{context}{question}\\n{options}Answer ...`.
        open: the same for a question without choices; `text` unless given.
        option: one choice, with the fields `{letter}` and `{choice}`.
        context: the hint of a question, with the field `{hint}`.
        ocr: the words that an OCR system read in the image, with the field `{tokens}`.
        remove: strings taken out of the question first.
        capitalize: first letter upper case, all others lower (what lmms-eval does to TextVQA and VizWiz).
    """

    text: str
    open: str | None = None
    option: str = "{letter}. {choice}"
    context: str = "Context: {hint}"
    ocr: str = "Reference OCR token: {tokens}"
    remove: Sequence[str] = ()
    capitalize: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("text", FIELDS),
            ("open", FIELDS),
            ("option", ("letter", "choice")),
            ("context", ("hint",)),
            ("ocr", ("tokens",)),
        ):
            unknown = [found for found in _fields(getattr(self, name) or "") if found not in allowed]
            if unknown:
                raise ValueError(
                    f"prompt: {name} has the field {{{unknown[0]}}}; use {', '.join(f'{{{f}}}' for f in allowed)}."
                )

    @property
    def shows_options(self) -> bool:
        """Whether the choices of a question have a place in it."""
        return "options" in _fields(self.text)

    def render(self, question: Question) -> str:
        """The prompt of `question`, without role headers and image placeholders.

        Raises:
            ValueError: the question has choices, or words of an OCR system were asked for, and the template shows none.
        """
        words = question.text
        for piece in self.remove:
            words = words.replace(piece, "")
        words = words.strip()
        hint, tokens = question.meta.get("hint") or "", question.meta.get("ocr_tokens") or ()
        choices = question.choices or ()
        options = [
            self.option.format(letter=letter, choice=choice)
            for letter, choice in zip(ascii_uppercase, choices, strict=False)
        ]
        template = self.text if choices or self.open is None else self.open
        if tokens and "ocr" not in _fields(template):
            raise ValueError(
                f"prompt: the template of {question.task} has no {{ocr}}, and ocr=true asks for its words. Put it in."
            )
        if hint and "context" not in _fields(template):
            template = f"{{context}}{template}"  # a hint is part of the question, whatever the template
        prompt = template.format(
            question=words.capitalize() if self.capitalize else words,
            options="".join(f"{option}\n" for option in options),
            context=self.context.format(hint=hint) + "\n" if hint else "",
            ocr=self.ocr.format(tokens=", ".join(tokens)) + "\n" if tokens else "",
        )
        if choices and "options" not in _fields(template) and not all(_shows(prompt, each) for each in choices):
            raise ValueError(
                f"prompt: the template of {question.task} has no {{options}}, so the model would not see the choices "
                f"of question {question.id}. Put it in."
            )
        return prompt


def placed(prompt: str, num_images: int) -> tuple[str, tuple[int, ...], list[int]]:
    """A prompt whose `<image N>` are places of images: without them, the places, and which image stands at each.

    The first mention of a number is the place of its image, by the order of the numbers; a later one stays text. A
    prompt that mentions another number of images than there are stays as it is, and its images stand before it.

    Args:
        prompt: as the template has made it.
        num_images: of the question.
    """
    mentions = list(NUMBERED.finditer(prompt))
    numbers = list(dict.fromkeys(int(found[1]) for found in mentions))
    if len(numbers) != num_images:
        return prompt, (), [*range(num_images)]
    firsts = [next(found for found in mentions if int(found[1]) == number) for number in numbers]
    pieces, start = [], 0
    for found in firsts:
        pieces.append(prompt[start : found.start()])
        start = found.end()
    places = tuple(accumulate(map(len, pieces)))
    rank = {number: place for place, number in enumerate(sorted(numbers))}
    return "".join(pieces) + prompt[start:], places, [rank[number] for number in numbers]


def _shows(prompt: str, choice: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(choice.strip())}(?!\w)", prompt) is not None


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


@dataclass(frozen=True, kw_only=True)
class PromptBook:
    """A named set of prompts.

    Attributes:
        name: of the set: a benchmark's class may have a template under it.
        default: for benchmarks that have none. One without `{options}` is for questions without choices; those with
            choices then have the form `CHOICES`.
        templates: by benchmark, in place of the benchmark's own.
    """

    name: str
    default: Template
    templates: Mapping[str, Template] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "options" not in _fields(self.default.text):
            shown = replace(self.default, text=CHOICES, open=self.default.open or self.default.text)
            object.__setattr__(self, "default", shown)

    @property
    def told(self) -> str:
        """The name, and where the user has changed templates of a set a digest that tells what it asks from the set."""
        usual = SETS.get("llava" if self.name == DEFAULT else self.name, self.default)
        if self.default == usual and not self.templates:
            return self.name
        said = {"": asdict(self.default), **{name: asdict(each) for name, each in self.templates.items()}}
        return f"{self.name}_{hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:6]}"


DEFAULT = "default"
"""The set that asks each benchmark under the set that its published rows were made with."""
SETS: Mapping[str, Template] = {
    "llava": Template(text=CHOICES, open=f"{{context}}{{question}}\n{SHORT}"),
    "lmms_eval": Template(text=CHOICES, open=f"{{context}}{{question}}\n{SHORT}"),
    "released": Template(text=CHOICES, open="{context}{question}"),
}
"""What the sets of `conf/prompt` ask where a benchmark has no prompt of its own."""


def prompt_book(
    name: str, default: Mapping[str, Any], templates: Mapping[str, Mapping[str, Any]] | None = None
) -> PromptBook:
    """The prompts that a file of `conf/prompt` describes.

    Raises:
        ValueError: a template has an unknown key or field.
    """
    known, given = {each.name for each in fields(Template)}, templates or {}
    for benchmark, template in {"default": default, **given}.items():
        if unknown := set(template) - known:
            raise ValueError(
                f"prompt={name}: {benchmark} has the key {min(unknown)!r}; use {', '.join(sorted(known))}."
            )
    own = {benchmark: Template(**template) for benchmark, template in given.items()}
    return PromptBook(name=name, default=Template(**default), templates=own)
