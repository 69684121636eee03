"""Sources and their weights: which source each draw of a stream comes from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.order import uniform
from dragonfly_lit.data.source import Source
from dragonfly_lit.data.source_spec import SOURCE_KEYS, SourceSpec, check_keys, spec_of
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES

_MIX_KEYS = ("sources", "weight", "temperature")


def specs_of(mix: Mapping[str, Any], where: str = "data.train", prefix: str = "") -> list[SourceSpec]:
    """Every source of a (nested) mix in the order of the config.

    Args:
        mix: `sources`, each a source or a mix of its own.
        where: the config key of `mix`, for messages.
        prefix: of the full names inside `mix`.

    Raises:
        ValueError: an unknown key, a source without a path, a mix without a source.
    """
    check_keys(mix, _MIX_KEYS, where)
    if not mix.get("sources"):
        raise ValueError(f"{where}.sources is empty: name at least one source.")
    found: list[SourceSpec] = []
    for name, node in mix["sources"].items():
        inner, full = f"{where}.sources.{name}", f"{prefix}{name}"
        if not isinstance(node, Mapping):
            raise ValueError(f"{inner}={node!r} must have the keys {', '.join(SOURCE_KEYS)}.")
        found += specs_of(node, inner, f"{full}/") if "sources" in node else [spec_of(node, inner, full)]
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
        report: takes the name of a source with `on_error: skip` and what is damaged of it.
        max_pixels: of an image; None is the decoder's own limit.
        cache_dir: of remote shards.
        cache_bytes: likewise.
        max_member_bytes: of a member of a shard.
        preferences: whether samples have a chosen and a rejected answer, or none has; None for either.

    Raises:
        ValueError: a source cannot be opened, or its samples are of the other kind.
    """

    def __init__(
        self,
        mix: Mapping[str, Any],
        *,
        where: str = "data.train",
        seed: int = 0,
        report: Callable[[str, BadSampleError], None] | None = None,
        max_pixels: int | None = None,
        cache_dir: str | None = None,
        cache_bytes: int = 50 * 10**9,
        max_member_bytes: int = MAX_MEMBER_BYTES,
        preferences: bool | None = None,
    ):
        self.sources: list[Source] = []
        for spec in specs_of(mix, where):
            key = f"{where}.sources.{spec.name.replace('/', '.sources.')}"
            report_of_source = partial(report, spec.name) if report else None
            reader = open_source(spec, key, report_of_source, cache_dir, cache_bytes, max_member_bytes)
            source = Source(spec=spec, reader=reader, seed=seed, max_pixels=max_pixels, preferences=preferences)
            source.check_kind(key)
            self.sources.append(source)
        found = shares(mix, {source.name: len(source) for source in self.sources}, where)
        self.shares = [found[source.name] for source in self.sources]
        self._bounds = list(accumulate(self.shares))[:-1]
        self._seed = seed

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def draw(self, stream: int, number: int) -> int:
        """Which source draw `number` of `stream` comes from."""
        return bisect_right(self._bounds, uniform(self._seed, "mix", stream, number)) if self._bounds else 0
