"""Prompt templates: how the words of a question become what the model is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_uppercase

from dragonfly_lit.evaluation.tasks.base import Question


@dataclass(frozen=True, kw_only=True)
class Template:
    """The prompt of one benchmark.

    Attributes:
        text: with the fields `{question}`, `{options}`, `{context}` and `{ocr}`; each but the first is empty, or ends in a
            new line, so that a template reads `{context}{question}\\n{options}Answer ...`.
        open: the same for a question without choices; `text` unless given.
        option: one choice, with the fields `{letter}` and `{choice}`.
        remove: strings taken out of the question first.
        capitalize: first letter upper case, all others lower (what lmms-eval does to TextVQA and VizWiz).
        context: with the field `{hint}`; used when the question has one.
        always_context: also print an empty context.
    """

    text: str
    open: str | None = None
    option: str = "{letter}. {choice}"
    remove: tuple[str, ...] = ()
    capitalize: bool = False
    context: str = "Context: {hint}\n"
    ocr: str = "Reference OCR token: {tokens}\n"

    def render(self, question: Question) -> str:
        """The prompt of `question`, without role headers and image placeholders."""
        text = question.text
        for piece in self.remove:
            text = text.replace(piece, "")
        text = text.strip()
        if self.capitalize:
            text = text.capitalize()
        choices = question.choices or ()
        options = "".join(
            self.option.format(letter=letter, choice=choice) + "\n" for letter, choice in zip(ascii_uppercase, choices)
        )
        hint, tokens = question.meta.get("hint") or "", question.meta.get("ocr_tokens") or ()
        template = self.text if choices or self.open is None else self.open
        return template.format(
            question=text, options=options,
            context=self.context.format(hint=hint) if hint else "",
            ocr=self.ocr.format(tokens=", ".join(tokens)) if tokens else "",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PromptBook:
    """A named set of templates, one a benchmark, and one for every other."""

    name: str
    templates: Mapping[str, Template] = field(default_factory=dict)
    default: Template = Template(text="{question}")  # noqa: RUF009 - frozen

    def template(self, task: str) -> Template:
        """The template of a benchmark."""
        return self.templates.get(task, self.default)
