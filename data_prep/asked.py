"""Images that a mix is compared with: of benchmarks, or of folders of shards, tables or images."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dragonfly_lit.app.build import compose, make
from dragonfly_lit.app.data import opening
from dragonfly_lit.app.errors import describe
from dragonfly_lit.app.values import check_values
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.source import Reader
from dragonfly_lit.data.source_spec import SourceSpec
from dragonfly_lit.data.table_files import table_files
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.images import place_of
from dragonfly_lit.evaluation.question import AnyImage
from dragonfly_lit.processing.images import MAX_PIXELS, decode
from dragonfly_lit.spec.shard import NAMED_IMAGE_EXTENSIONS

from .likeness import Look, look_at


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How sources are opened and images are decoded: as training does it.

    Attributes:
        opening: what `open_source` is given beside the source.
        max_pixels: of an image.
    """

    opening: tuple[tuple[str, Any], ...] = ()
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(cls, config: dict[str, Any]) -> Reading:
        """As a configuration of training says."""
        limit = config["data"]["max_pixels"]
        return cls(opening=tuple(opening(config).items()), max_pixels=MAX_PIXELS if limit is None else limit)

    def look_at(self, image: bytes | Path) -> Look:
        """What is known of an encoded image."""
        return look_at(decode(image, max_pixels=self.max_pixels))


@lru_cache(4)
def reader_of(spec: SourceSpec, reading: Reading) -> Reader:
    """What reads a source that lies on a path, open in this process; what is damaged of it is told elsewhere."""
    return open_source(spec, spec.name, lambda bad: None, **dict(reading.opening))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An image of a benchmark, where it lies."""

    benchmark: str
    question: str
    image: AnyImage


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A sample of shards or tables that are compared with, where it lies, with as many images as it has."""

    source: SourceSpec
    place: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of an image of a benchmark, or why it cannot be read."""

    benchmark: str
    question: str
    look: Look | None = None
    problem: str = ""


def look_at_asked(asked: Sequence[Asked | Stored], reading: Reading) -> list[Seen]:
    """What is known of each of these images; one that cannot be read is told and the others are looked at."""
    return [
        seen
        for each in asked
        for seen in (_of_sample(each, reading) if isinstance(each, Stored) else _of_image(each, reading))
    ]


def _of_image(each: Asked, reading: Reading) -> Iterator[Seen]:
    try:
        image = each.image if isinstance(each.image, bytes | Path) else each.image.read_bytes()
        yield Seen(benchmark=each.benchmark, question=each.question, look=reading.look_at(image))
    except (ValueError, OSError) as error:
        place = "" if isinstance(each.image, bytes) else f", {place_of(each.image)}"
        problem = f"{each.benchmark} {each.question}{place}: {error}"
        yield Seen(benchmark=each.benchmark, question=each.question, problem=problem)


def _of_sample(each: Stored, reading: Reading) -> Iterator[Seen]:
    reader, name = reader_of(each.source, reading), each.source.name
    file, place = reader.describe(each.place)
    try:
        record = reader.record(each.place, 0)
        looks = [reading.look_at(image) for image in record.images]
    except (ValueError, OSError) as error:
        yield Seen(benchmark=name, question=place, problem=f"{name}: {file} {place}: {error}")
        return
    yield from (Seen(benchmark=name, question=record.key, look=look) for look in looks)


def images_asked(name: str, overrides: Sequence[str], reading: Reading) -> list[Asked | Stored]:
    """The images of a benchmark, of a suite, or of a folder of shards, tables or images, each once.

    Args:
        name: of the benchmark or the folder; what else `evaluate.py` should be given may stand behind it.
        overrides: for every benchmark, such as `data_root=FOLDER`.
        reading: how a folder of shards or tables is opened.

    Raises:
        ValueError: there is neither, or its data are not there.
    """
    try:
        first, *more = shlex.split(name)
    except ValueError as error:
        raise ValueError(
            f"--against {name!r}: names nothing that can be compared. Give a benchmark, with its configuration behind "
            "it in quotes, or a folder."
        ) from error
    if first not in BENCHMARKS and Path(first).is_dir():
        return _of_folder(Path(first), reading)
    given = [f"benchmark={first}", *more, *overrides]
    try:
        config = compose(given, "evaluate")
    except Exception as error:  # Hydra's own kinds
        raise ValueError(f"--against {first}: {describe(error, 'evaluate', given)}") from error
    check_values(config, "evaluate")
    found: dict[tuple[str, str], Asked] = {}
    for benchmark in make(config["benchmark"]).benchmarks:
        for question in benchmark.questions(config["data_root"], hidden=True):
            for key, image in zip(question.image_keys, question.images, strict=True):
                asked = Asked(benchmark=benchmark.name, question=question.id, image=image)
                found.setdefault((benchmark.name, key), asked)
    return list(found.values())


def _of_folder(folder: Path, reading: Reading) -> list[Asked | Stored]:
    if any(folder.glob("*.tar")) or table_files(str(folder)):
        spec = SourceSpec(name=str(folder), path=str(folder))
        reader = open_source(spec, "--against", **dict(reading.opening))
        return [Stored(source=spec, place=place) for place in range(len(reader))]
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower().lstrip(".") in NAMED_IMAGE_EXTENSIONS)
    if not files:
        raise ValueError(f"--against {folder}: neither shards (*.tar), tables nor images are in this folder.")
    return [Asked(benchmark=str(folder), question=str(path.relative_to(folder)), image=path) for path in files]
