"""Sets that are drawn: both splits as shards, once, with a card that tells their settings and what chance gives."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rich.progress import track

from dragonfly_lit.data.index import index_folder
from dragonfly_lit.io import atomic
from dragonfly_lit.io.lock import locked
from dragonfly_lit.spec.samples import Record

from .arguments import command_parser
from .shards import new_folder, shard_name, write_shard

SPLITS = ("train", "test")
LEAST = {"num_train": 1, "num_test": 1, "seed": 0, "side": 64}
"""Below a side of 64 the smallest details have no pixel."""
SHARD_SIZE = 500
SIZES = (0.02, 0.04, 0.06, 0.09, 0.13, 0.18, 0.25)
"""Side of a detail as a share of the canvas's side."""
TRAIN_SIZES = (*SIZES, *(0.45,) * 6)
"""What is asked about in training is large in part, or a model that starts afresh finds nothing to learn from."""
JITTER = 0.15
"""Details of one size differ by at most this share of it."""

Draw = Callable[[str, int], Record]


def answers_of(record: Record) -> Iterator[tuple[str, str]]:
    """Kind and answer of each of its questions."""
    for kind, turn in zip(record.meta["kinds"], record.turns[1::2], strict=True):
        yield kind, turn.text


def chance(answered: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Accuracy, by kind of question, of always giving the most frequent answer to that kind."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, answer in answered:
        answers[kind][answer] += 1
    return {kind: count.most_common(1)[0][1] / count.total() for kind, count in sorted(answers.items())}


def drawn_parser(name: str, about: str | None, *, num_train: int, num_test: int, side: int) -> ArgumentParser:
    """Of a command that draws a set: where to, and all settings that every set has.

    Args:
        name: of the command.
        about: the module's docstring.
        num_train: training images unless told.
        num_test: test images unless told.
        side: of an image in pixels unless told.
    """
    parser = command_parser(name, about)
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of all data (default: data)")
    parser.add_argument("--num-train", type=int, default=num_train, help="training images (default: %(default)s)")
    parser.add_argument("--num-test", type=int, default=num_test, help="test images (default: %(default)s)")
    parser.add_argument("--side", type=int, default=side, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    return parser


def make_drawn(home: Path, draw: Draw, *, settings: Mapping[str, Any], licence: str) -> Path:
    """Draw both splits into `home` unless they lie there already with the same settings.

    Args:
        home: folder of the set; its name is the source's.
        draw: the record of a split and a number, a pure function of both and the settings.
        settings: `num_train`, `num_test`, `seed`, `side` and all else that `draw` depends on.
        licence: of what is drawn.

    Raises:
        ValueError: a setting is below `LEAST`, or other settings made what lies there.
    """
    for name, least in LEAST.items():
        if settings[name] < least:
            raise ValueError(f"--{name.replace('_', '-')} {settings[name]}: give {least} or more.")
    home.mkdir(parents=True, exist_ok=True)
    name = home.name
    with locked(home, way_out="Wait until it has ended.", patience=math.inf):
        card = home / f"{name}.json"
        if card.is_file():
            made = _settings(card)
            if made != settings:
                raise ValueError(
                    f"{home} was made with {made}, not with {settings}. Remove it, or give another --root."
                )
            return home
        chances = {}
        for split in SPLITS:
            with new_folder(home / split, f"{name}-{split}") as partial:
                chances[split] = _write_split(partial, name, split, draw, settings[f"num_{split}"], licence)
        told = {"settings": settings, "sizes": SIZES, "train_sizes": TRAIN_SIZES, "chance": chances["test"]}
        atomic.write(card, json.dumps(told, indent=1) + "\n")
    return home


def chances_told(home: Path) -> str:
    """Where a set lies and what chance gives, in a line."""
    told = json.loads((home / f"{home.name}.json").read_text())["chance"]
    return f"{home}: chance is " + ", ".join(f"{kind} {share:.1%}" for kind, share in told.items())


def _settings(card: Path) -> dict[str, Any]:
    with suppress(ValueError, KeyError, TypeError):
        return json.loads(card.read_text())["settings"]
    raise ValueError(f"{card} is not from this command. Move it away, or give another --root.")


def _write_split(folder: Path, name: str, split: str, draw: Draw, total: int, licence: str) -> dict[str, float]:
    answered: list[tuple[str, str]] = []

    def records() -> Iterator[Record]:
        for number in track(range(total), description=f"drawing {split}"):
            record = draw(split, number)
            answered.extend(answers_of(record))
            yield record

    stream = records()
    for number, first in enumerate(stream):
        write_shard(folder / shard_name(f"{name}-{split}", number), chain([first], islice(stream, SHARD_SIZE - 1)))
    index_folder(folder, licence=licence)
    return chance(answered)
