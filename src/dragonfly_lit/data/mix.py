"""Sources and their weights: which source each draw of a stream comes from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args

from dragonfly_lit.data.order import uniform
from dragonfly_lit.data.remote import is_remote
from dragonfly_lit.data.samples import BadSampleError, ask, one_question, to_record, to_sample
from dragonfly_lit.data.shards import Report, Shards
from dragonfly_lit.spec.records import Record, Sample

OnError = Literal["raise", "skip"]
Questions = Literal["all", "one"]
PROMPTS: dict[str, tuple[str, ...]] = {
    "caption": (
        "Describe the image.", "What does the image show?", "Write a caption for this image.",
        "Give a short description of the image.", "What can be seen here?", "Summarise the content of the image.",
    ),
    "medical_caption": (
        "Describe the medical image.", "What does this medical image show?", "Write a caption for this figure.",
        "Summarise the findings that are visible in the image.", "Which modality and which findings does it show?",
    ),
}  # fmt: skip
"""Named sets of questions for sources of captions."""

_SOURCE_KEYS = ("path", "weight", "prompts", "questions", "on_error")
_MIX_KEYS = ("sources", "weight", "temperature")


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A source as the config names it.

    Attributes:
        name: its place in the config, nested names joined by `/`.
        path: folder or URL of shards.
        share: of the draws, between 0 and 1; set by `flatten`.
        prompts: questions to choose from; empty leaves the records as they are.
        questions: `all` that share an image in one sequence, or `one` of them, another one in another epoch.
        on_error: `raise` stops at a bad sample, `skip` counts it and writes it into the quarantine file.
    """

    name: str
    path: str
    share: float = 0.0
    prompts: tuple[str, ...] = ()
    questions: Questions = "all"
    on_error: OnError = "raise"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source that is open."""

    spec: SourceSpec
    shards: Shards
    seed: int
    max_pixels: int | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    def __len__(self) -> int:
        return len(self.shards)

    def record(self, index: int, epoch: int) -> Record:
        """The record at `index` with its question chosen for `epoch`, its images still encoded.

        Raises:
            BadSampleError: the sample cannot be used.
        """
        raw = self.shards.read(index)
        record = to_record(raw)
        try:
            turns = ask(record, self.spec.prompts, (self.seed, self.name, record.key, epoch))
        except ValueError as error:
            raise BadSampleError(raw.shard, raw.key, str(error)) from None
        record = record if turns is record.turns else replace(record, turns=turns)
        if self.spec.questions == "one":
            return one_question(record, (self.seed, self.name, record.key, epoch))
        return record

    def sample(self, index: int, record: Record) -> Sample:
        """The sample of a record that `record(index, epoch)` gave, decoded."""
        try:
            return to_sample(record, record.turns, source=self.name, max_pixels=self.max_pixels)
        except ValueError as error:
            raise BadSampleError(self.shards.describe(index)[0], record.key, str(error)) from None


def _check_keys(node: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    unknown = [key for key in node if key not in allowed]
    if unknown:
        raise ValueError(f"{where} has an unknown key {unknown[0]!r}. Use {', '.join(allowed)}.")


def _spec(node: Mapping[str, Any], where: str, name: str) -> SourceSpec:
    _check_keys(node, _SOURCE_KEYS, where)
    path = node.get("path")
    if not path:
        raise ValueError(f"{where}.path is missing: name a folder or a URL of shards.")
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
    return SourceSpec(name=name, path=str(path), prompts=tuple(prompts), questions=questions, on_error=on_error)


def specs_of(mix: Mapping[str, Any], where: str = "data.train") -> list[SourceSpec]:
    """Every source of a (nested) mix in the order of the config, without shares.

    Raises:
        ValueError: an unknown key, a source without a path, a mix without a source.
    """
    return [spec for spec, _ in _leaves(mix, where, "")]


def _leaves(mix: Mapping[str, Any], where: str, prefix: str) -> list[tuple[SourceSpec, Mapping[str, Any]]]:
    _check_keys(mix, _MIX_KEYS, where)
    if not mix.get("sources"):
        raise ValueError(f"{where}.sources is empty: name at least one source.")
    found = []
    for name, node in mix["sources"].items():
        inner, full = f"{where}.sources.{name}", f"{prefix}{name}"
        if not isinstance(node, Mapping):
            raise ValueError(f"{inner}={node!r} must have the keys {', '.join(_SOURCE_KEYS)}.")
        found += _leaves(node, inner, f"{full}/") if "sources" in node else [(_spec(node, inner, full), node)]
    return found


def shares(
    mix: Mapping[str, Any], counts: Mapping[str, int], where: str = "data.train", prefix: str = ""
) -> dict[str, float]:
    """Share of the draws of every source, by full name; they sum to 1.

    Args:
        mix: `sources` with a `weight` each, or `temperature: T` for weights n^(1/T); a source may be a mix.
        counts: samples a source, by full name.
        where: the config key of `mix`, for messages.
        prefix: of the full names inside `mix`.

    Raises:
        ValueError: a weight that is not a positive number, or weights and a temperature at once.
    """
    temperature = mix.get("temperature")
    inner: dict[str, dict[str, float]] = {}
    weights: dict[str, float] = {}
    for name, node in mix["sources"].items():
        full, here = f"{prefix}{name}", f"{where}.sources.{name}"
        nested = "sources" in node
        inner[name] = shares(node, counts, here, f"{full}/") if nested else {full: 1.0}
        if temperature is not None:
            if node.get("weight") is not None:
                raise ValueError(f"{here}.weight and {where}.temperature={temperature} are both set. Set one to null.")
            if not temperature > 0:
                raise ValueError(f"{where}.temperature={temperature} must be above 0; 1 draws by size, more evens out.")
            weights[name] = sum(counts[source] for source in inner[name]) ** (1 / temperature)
        else:
            weight = node.get("weight", 1.0)
            weights[name] = 1.0 if weight is None else float(weight)
            if not 0 < weights[name] < float("inf"):
                raise ValueError(f"{here}.weight={weight} must be above 0. Take the source out to leave it unread.")
    total = sum(weights.values())
    return {full: weights[n] / total * share for n, members in inner.items() for full, share in members.items()}


class Mix:
    """The open sources of a mix and their shares.

    Args:
        mix: the config node, `sources` with weights or `temperature`.
        where: its config key, for messages.
        seed: of the run.
        report: where damaged shards of sources with `on_error: skip` are reported.
        max_pixels: of an image; None is the decoder's own limit.
        cache_dir: of remote shards.
        cache_bytes: likewise.
    """

    def __init__(
        self,
        mix: Mapping[str, Any],
        *,
        where: str = "data.train",
        seed: int = 0,
        report: Report | None = None,
        max_pixels: int | None = None,
        cache_dir: str | None = None,
        cache_bytes: int = 50 * 10**9,
    ):
        self.sources: list[Source] = []
        for spec in specs_of(mix, where):
            key = f"{where}.sources.{spec.name.replace('/', '.sources.')}.path"
            shards = open_source(spec, key, report, cache_dir, cache_bytes)
            self.sources.append(Source(spec=spec, shards=shards, seed=seed, max_pixels=max_pixels))
        found = shares(mix, {source.name: len(source) for source in self.sources}, where)
        self.shares = [found[source.name] for source in self.sources]
        self._bounds = list(accumulate(self.shares))[:-1]
        self._seed = seed

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def draw(self, stream: int, number: int) -> int:
        """Which source draw `number` of `stream` comes from."""
        return bisect_right(self._bounds, uniform(self._seed, "mix", stream, number)) if self._bounds else 0


def open_source(
    spec: SourceSpec,
    key: str,
    report: Report | None = None,
    cache_dir: str | None = None,
    cache_bytes: int = 50 * 10**9,
) -> Shards:
    """The shards of a source.

    Raises:
        ValueError: they are missing or damaged; the message names the config key and the way out.
    """
    report = report if spec.on_error == "skip" else None
    try:
        if not is_remote(spec.path) and not Path(spec.path).is_dir():
            command = "python -m data_prep demo" if "easy_vqa" in spec.path else "python -m data_prep pack --help"
            raise ValueError(f"no such folder. Make it with: {command}")
        shards = Shards(spec.path, report=report, cache_dir=cache_dir, cache_bytes=cache_bytes)
    except ValueError as error:
        raise ValueError(f"{key}={spec.path}: {error}") from error
    if not len(shards):
        raise ValueError(f"{key}={spec.path} has shards but no sample. Write some: python -m data_prep pack --help")
    return shards
