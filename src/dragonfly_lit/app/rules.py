"""What a value may be: rules in words and as tests, which `app.keys` gives to keys."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MANY = 10**12
"""No count of anything here is larger; a larger number was meant to be something else."""


@dataclass(frozen=True)
class Rule:
    """What a value must be: alternatives in words that follow `is not`, and a test."""

    alternatives: tuple[str, ...]
    fits: Callable[[Any], bool]

    def __or__(self, other: Rule) -> Rule:
        return Rule(self.alternatives + other.alternatives, lambda value: self.fits(value) or other.fits(value))

    @property
    def wanted(self) -> str:
        *others, last = self.alternatives
        return f"{', '.join(others)} or {last}" if others else last


def number(least: float | int = -math.inf, most: float | int = math.inf, *, above: float | int = -math.inf) -> Rule:
    """A finite number between `least` and `most`, both among them; or one above a bound."""

    def fits(value: Any) -> bool:
        return _is_number(value) and math.isfinite(value) and least <= value <= most and value > above

    limits = [f"above {above:g}"] if above > -math.inf else [f"of at least {least:g}"] if least > -math.inf else []
    limits += [f"at most {most:g}"] if most < math.inf else []
    return Rule((" ".join(["a number", " and ".join(limits)]).strip(),), fits)


def whole(least: int, most: int = MANY) -> Rule:
    """A whole number between `least` and `most`, both among them; 1e3 is one."""

    def fits(value: Any) -> bool:
        return _is_number(value) and math.isfinite(value) and float(value).is_integer() and least <= value <= most

    limits = [f"of at least {least}"] if least > -MANY else []
    limits += [f"at most {most}"] if most < MANY else []
    return Rule((" ".join(["a whole number", " and ".join(limits)]).strip(),), fits)


def one_of(*texts: str) -> Rule:
    """One of some words."""
    return Rule(texts, lambda value: isinstance(value, str) and value in texts)


def each(rule: Rule) -> Rule:
    """A mapping of any names to what `rule` takes."""

    def fits(value: Any) -> bool:
        return isinstance(value, Mapping) and all(isinstance(k, str) and rule.fits(v) for k, v in value.items())

    return Rule((f"a mapping of parts to these, {{language: {rule.alternatives[-1]}}}",), fits)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


null = Rule(("null",), lambda value: value is None)
flag = Rule(("true", "false"), lambda value: isinstance(value, bool))
text = Rule(("a text",), lambda value: isinstance(value, str) and value != "")
any_text = Rule(("a text",), lambda value: isinstance(value, str))
texts = Rule(("a list of texts, [a, b]",), _is_texts)
numbers = Rule(
    ("a list of values, [1, 2.5]",),
    lambda value: isinstance(value, list) and len(value) > 0 and all(map(_is_finite, value)),
)
mapping = Rule(("a mapping, {key: value}",), lambda value: isinstance(value, Mapping))


def refuse(key: str, value: Any, rule: Rule, hint: str = "") -> None:
    """Raise what is said of a value that its key cannot have."""
    if rule.alternatives[0].startswith("a text") and (_is_number(value) or isinstance(value, bool)):
        hint += f" A text that looks like a number is quoted: '{key}=\"{value}\"'."
    shown = json.dumps(value) if isinstance(value, bool | None | list | dict) else value
    raise ValueError(f"{key}={shown} is not {rule.wanted}.{hint}")
