"""`overlap`: which images of a training mix are in the benchmarks: the same pixels, the same picture, or a part of it.

Every image of the mix is compared with every image of the benchmarks, by its pixels and by a perceptual hash of the
whole, turned and mirrored too, and of parts; what has a near hash is looked at more closely. OUT/overlap.csv has a line
for each image and benchmark, with the most alike of its questions, and OUT/exclude has for each source the keys of its
samples, as `exclude: FILE` of a source takes them.
"""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from dragonfly_lit.app.build import compose, make
from dragonfly_lit.app.errors import describe
from dragonfly_lit.app.values import check_values
from dragonfly_lit.data.exclusion import read_keys, write_keys
from dragonfly_lit.data.mix import specs_of
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.source_spec import SourceSpec
from dragonfly_lit.io.console import standard_output
from dragonfly_lit.io.text import counted

from .album import KINDS, Album
from .arguments import overlap_parser
from .asked import Asked, Reading, Stored, images_asked, look_at_asked, reader_of
from .likeness import Look
from .mix_plan import is_there
from .parallel import in_order
from .progress import progress_bar

CHUNK = 64
"""Samples, or images of benchmarks, that are one piece of work."""
TABLE_FILE = "overlap.csv"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image of the mix that is in a benchmark.

    Attributes:
        source: of the mix.
        shard: where its sample lies.
        key: of the sample.
        image: number of the image in the sample.
        kind: one of `KINDS`; of `part of it` either may be the part.
        likeness: correlation of the colours, 1 where the pixels are the same.
        benchmark: its name, or its folder.
        question: id of the question whose image is the most alike, or its file.
    """

    source: str
    shard: str
    key: str
    image: int
    kind: str
    likeness: float
    benchmark: str
    question: str


# Images of the mix


@lru_cache(1)
def _album(folder: Path) -> Album:
    return Album(folder)


def compare(
    spec: SourceSpec, start: int, stop: int, album: Path, reading: Reading
) -> tuple[list[Found], Counter[str], list[str]]:
    """The images of some samples of a source that are in a benchmark.

    Args:
        spec: of the source.
        start: first sample.
        stop: behind the last.
        album: folder of an `Album`.
        reading: how the source is opened.

    Returns:
        What was found; how many samples and images were read; what could not be.
    """
    reader = spec.reader if spec.path is None else reader_of(spec, reading)
    found, counts, unread = [], Counter[str](), []
    for place in range(start, stop):
        counts["samples"] += 1
        shard, key = reader.describe(place)
        try:
            record = reader.record(place, 0)
            key = record.key
            looks = [reading.look_at(image) for image in record.images]
        except (ValueError, OSError) as error:
            unread.append(f"{spec.name}: {shard} {key}: {error}")
            continue
        counts["images"] += len(looks)
        for number, look in enumerate(looks):
            for other, kind, likeness in _best_of_each(_album(album), look):
                benchmark, question = _album(album).asked[other]
                found.append(
                    Found(
                        source=spec.name,
                        shard=shard,
                        key=key,
                        image=number,
                        kind=kind,
                        likeness=round(likeness, 4),
                        benchmark=benchmark,
                        question=question,
                    )
                )
    return found, counts, unread


def _best_of_each(album: Album, look: Look) -> list[tuple[int, str, float]]:
    """Of each benchmark the image that is most alike."""
    best: dict[str, tuple[int, str, float]] = {}
    for number, kind, likeness in album.like(look):
        name = album.asked[number][0]
        if name not in best or likeness > best[name][2]:
            best[name] = number, kind, likeness
    return list(best.values())


def specs_given(folders: Sequence[str], config: Mapping[str, Any]) -> list[SourceSpec]:
    """The sources that are compared: folders of shards or tables, each once, or those of `data.train`."""
    paths = dict.fromkeys(folder.rstrip("/") or "/" for folder in folders)
    if missing := [path for path in paths if not is_there(path)]:
        raise ValueError(f"{missing[0]}: no such folder of shards, and no tables. python -m data_prep pack makes one.")
    if paths:
        return [SourceSpec(name=path, path=path) for path in paths]
    return specs_of(make(config["data"]["train"], where="data.train"))


def _configured(overrides: list[str]) -> dict[str, Any]:
    try:
        config = compose(overrides)
    except Exception as error:  # Hydra's own kinds
        raise ValueError(describe(error, "train", overrides)) from error
    check_values(config, "train")
    return config


# The command


def main(argv: list[str]) -> int:
    """Compare, print the table, and write the lists."""
    given = overlap_parser().parse_intermixed_args(argv)
    folders = [item for item in given.given if "=" not in item or Path(item).is_dir()]
    overrides = [item for item in given.given if item not in folders]
    overrides = [*([f"--config-dir={given.config_dir}"] if given.config_dir else []), *overrides]
    _check_out(given.out)
    config = _configured(overrides)
    reading, specs = Reading.of(config), specs_given(folders, config)
    readers = [
        open_source(spec, f"data.train.sources.{spec.name}", partial(_damaged, spec.name), **dict(reading.opening))
        for spec in specs
    ]
    shared = [each for each in overrides if each.startswith(("data_root=", "--config-dir="))]
    asked = [each for name in dict.fromkeys(given.against) for each in images_asked(name, shared, reading)]
    found: list[Found] = []
    counts: dict[str, Counter[str]] = {spec.name: Counter() for spec in specs}
    with TemporaryDirectory(prefix="dragonfly-overlap-") as folder, progress_bar() as progress:
        task = progress.add_task("images of the benchmarks", total=len(asked))
        album = Path(folder)
        unread = _write_album(album, asked, reading, given.workers, lambda number: progress.advance(task, number))
        work = [
            (spec, start, min(start + CHUNK, len(reader)), album, reading)
            for spec, reader in zip(specs, readers, strict=True)
            for start in range(0, len(reader), CHUNK)
        ]
        task = progress.add_task("samples of the mix", total=sum(map(len, readers)))
        for (spec, *_), (more, read, bad) in zip(work, in_order(compare, work, given.workers), strict=True):
            found += more
            counts[spec.name] += read
            unread += bad
            progress.advance(task, read["samples"])
    lists = _write(given.out, specs, found)
    _tell(given.out, specs, found, counts, unread, lists)
    return 0


def _damaged(source: str, bad: Exception) -> None:
    log.warning("source %s: %s", source, bad)


def _check_out(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"--out {out} is there already and holds something. Name a folder that is not there yet.")


def _write_album(
    folder: Path, asked: list[Asked | Stored], reading: Reading, workers: int, on_progress: Callable[[int], None]
) -> list[str]:
    """Write the album; what could not be read of it."""
    looks: list[Look] = []
    named, unread = [], []
    chunks = [asked[start : start + CHUNK] for start in range(0, len(asked), CHUNK)]
    work = ((chunk, reading) for chunk in chunks)
    for chunk, found in zip(chunks, in_order(look_at_asked, work, workers), strict=True):
        for seen in found:
            if seen.look is None:
                unread.append(seen.problem)
            else:
                looks.append(seen.look)
                named.append((seen.benchmark, seen.question))
        on_progress(len(chunk))
    if not looks:
        raise ValueError(f"--against: none of {len(asked)} images can be read. {next(iter(unread), '')}")
    Album.write(folder, named, looks)
    return unread


def list_names(sources: Iterable[str]) -> dict[str, str]:
    """The name of the list of each source: its own, as one component of a path that no other source has."""
    names: dict[str, str] = {}
    for source in sources:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", source).strip("-.") or "source"
        taken = {name.lower() for name in names.values()}
        tries = (f"{plain}.txt", *(f"{plain}-{number}.txt" for number in range(2, len(names) + 3)))
        names[source] = next(name for name in tries if name.lower() not in taken)
    return names


def _write(out: Path, specs: Iterable[SourceSpec], found: Sequence[Found]) -> dict[str, Path]:
    """Write the table and a list for each source; the lists by their sources.

    A list has what the source leaves out already too, so that it can take its place.
    """
    (out / "exclude").mkdir(parents=True)
    with (out / TABLE_FILE).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Found.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(map(asdict, found))
    lists = {}
    for source, name in list_names(spec.name for spec in specs).items():
        lists[source] = out / "exclude" / name
    for spec in specs:
        before = read_keys(Path(spec.exclude)) if spec.exclude else []
        keys = dict.fromkeys([*before, *(each.key for each in found if each.source == spec.name)])
        write_keys(lists[spec.name], keys, f"samples of {spec.name} with an image of a benchmark, see {TABLE_FILE}")
    return lists


def _tell(
    out: Path,
    specs: Sequence[SourceSpec],
    found: Sequence[Found],
    counts: dict[str, Counter[str]],
    unread: list[str],
    lists: Mapping[str, Path],
) -> None:
    """The table of sources and benchmarks."""
    table = Table("source", "benchmark", *KINDS, "samples", "of", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for spec in specs:
        of_source = [each for each in found if each.source == spec.name]
        for name in dict.fromkeys(each.benchmark for each in of_source):
            here = [each for each in of_source if each.benchmark == name]
            kinds = Counter(each.kind for each in here)
            samples = len({each.key for each in here})
            table.add_row(
                spec.name,
                name,
                *(f"{kinds[kind]:,}" for kind in KINDS),
                f"{samples:,}",
                f"{counts[spec.name]['samples']:,}",
            )
        if not of_source:
            table.add_row(spec.name, "none", *("0",) * (len(KINDS) + 1), f"{counts[spec.name]['samples']:,}")
    standard_output(markup=False).print(table)
    images = sum(each["images"] for each in counts.values())
    told = "a line for each image and benchmark, with the most alike of its questions"
    print(f"{counted(images, 'image')} compared. {out / TABLE_FILE} has {told}.")
    for spec in specs:
        if not any(each.source == spec.name for each in found):
            continue
        if spec.path is None:
            print(f"data.train: {spec.name} has a reader, which itself must leave out {lists[spec.name]}")
        else:
            print(f"data.train: give {spec.name} exclude: {lists[spec.name]}")
    if unread:
        print(f"{len(unread):,} could not be read and were not compared, the first of them: {unread[0]}")
