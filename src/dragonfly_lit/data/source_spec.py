"""A source as the configuration names it: each key and value is held against what a source may be."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dragonfly_lit.data.parts import part_of_path
from dragonfly_lit.spec.kinds import PROMPTS
from dragonfly_lit.spec.shard import SPLITS

OnError = Literal["raise", "skip"]
Questions = Literal["all", "one"]
SOURCE_KEYS = ("path", "split", "reader", "weight", "exclude", "prompts", "questions", "on_error")


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A source as the config names it.

    Attributes:
        name: its place in the config, nested names joined by `/`.
        path: folder or URL of shards; None where a reader is given.
        reader: of one's own, in place of shards; what its `_target_` names, or the built object.
        exclude: file with the keys of samples that are not read; None reads all.
        prompts: questions to choose from; empty leaves the records as they are.
        questions: `all` that share an image in one sequence, or `one` of them, another one in another epoch.
        on_error: `raise` stops at a bad sample, `skip` counts it and writes it into the quarantine file.
    """

    name: str
    path: str | None
    reader: Any = None
    exclude: str | None = None
    prompts: tuple[str, ...] = ()
    questions: Questions = "all"
    on_error: OnError = "raise"


def check_keys(node: Mapping[str, Any], allowed: Seq[str], where: str) -> None:
    """ValueError for a key of a configuration node that means nothing there."""
    unknown = [key for key in node if key not in allowed]
    if unknown:
        raise ValueError(f"{where} has an unknown key {unknown[0]!r}. Use {', '.join(allowed)}.")


def spec_of(node: Mapping[str, Any], where: str, name: str) -> SourceSpec:
    """A source as its configuration node describes it.

    Args:
        node: with some of `SOURCE_KEYS`.
        where: its config key, for messages.
        name: of the source.

    Raises:
        ValueError: an unknown key or value, or neither or both of `path` and `reader`.
    """
    check_keys(node, SOURCE_KEYS, where)
    path, reader = node.get("path"), node.get("reader")
    if path and reader is not None:
        raise ValueError(f"{where}.path={path} and {where}.reader are both set: shards are read, or a reader. Set one.")
    if not path and reader is None:
        raise ValueError(f"{where}.path is missing: name a folder or a URL of shards, or a reader by its _target_.")
    if split := node.get("split"):
        if split not in SPLITS or not path:
            raise ValueError(
                f"{where}.split={split!r}: it is one of {', '.join(SPLITS)}, of the folder in {where}.path."
            )
        try:
            path = part_of_path(str(path), split)
        except ValueError as error:
            raise ValueError(f"{where}.split={split}: {error}") from error
        if path is None:
            raise ValueError(
                f"{where}.split={split}: {node['path']} has no such part. pack --split-by makes one; or drop split."
            )
    exclude = node.get("exclude")
    if exclude and not path:
        raise ValueError(
            f"{where}.exclude={exclude} is for shards and tables. Let the reader itself leave those samples out."
        )
    on_error = node.get("on_error", "raise")
    if on_error not in get_args(OnError):
        raise ValueError(f"{where}.on_error={on_error!r} is unknown. Use one of {', '.join(get_args(OnError))}.")
    questions = node.get("questions", "all")
    if questions not in get_args(Questions):
        raise ValueError(f"{where}.questions={questions!r} is unknown. Use one of {', '.join(get_args(Questions))}.")
    prompts = node.get("prompts") or ()
    if isinstance(prompts, str):
        if prompts not in PROMPTS:
            raise ValueError(f"{where}.prompts={prompts!r} is unknown. Use {', '.join(PROMPTS)}, or a list of texts.")
        prompts = PROMPTS[prompts]
    return SourceSpec(
        name=name,
        path=str(path) if path else None,
        reader=reader,
        exclude=str(exclude) if exclude else None,
        prompts=tuple(prompts),
        questions=questions,
        on_error=on_error,
    )
