"""`overlap`: which images of a training mix are in the benchmarks: the same pixels, the same picture, or a part of it.

Every image of the mix is compared with every image of the benchmarks, by its pixels and by a perceptual hash of the
whole and of parts; what has a near hash is looked at more closely. OUT/overlap.csv has a line for each image found, and
OUT/exclude has for each source the keys of its samples, as `exclude: FILE` of a source takes them.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from dragonfly_lit.app.build import compose, make
from dragonfly_lit.app.errors import describe
from dragonfly_lit.app.values import check_values
from dragonfly_lit.data.mix import specs_of
from dragonfly_lit.data.remote import is_remote
from dragonfly_lit.data.source import Reader, open_source
from dragonfly_lit.data.source_spec import SourceSpec
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.images import place_of
from dragonfly_lit.evaluation.question import AnyImage
from dragonfly_lit.io.console import standard_output
from dragonfly_lit.processing.images import decode
from dragonfly_lit.spec.shard import NAMED_IMAGE_EXTENSIONS

from .arguments import overlap_parser
from .likeness import ALIKE, MAX_BITS, PARTS, WHOLE, Look, alike, bits_apart, look_at
from .parallel import in_order
from .progress import progress_bar

CHUNK = 64
"""Samples, or images of benchmarks, that are one piece of work."""
TABLE_FILE = "overlap.csv"
KINDS = ("same pixels", "same picture", "part of it")


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
        question: id of a question about the image, or its file.
    """

    source: str
    shard: str
    key: str
    image: int
    kind: str
    likeness: float
    benchmark: str
    question: str


# Images of the benchmarks


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An image of a benchmark, where it lies."""

    benchmark: str
    question: str
    image: AnyImage


def images_asked(name: str, overrides: Sequence[str]) -> list[Asked]:
    """The images of a benchmark, of a suite, or of a folder of shards or images, each once.

    Args:
        name: of the benchmark or the folder; what else `evaluate.py` should be given may stand behind it.
        overrides: for every benchmark, such as `data_root=FOLDER`.

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
        return _of_folder(Path(first))
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


def _of_folder(folder: Path) -> list[Asked]:
    if any(folder.glob("*.tar")):
        reader = open_source(SourceSpec(name=str(folder), path=str(folder)), "--against")
        records = (reader.record(place, 0) for place in range(len(reader)))
        return [
            Asked(benchmark=str(folder), question=record.key, image=image)
            for record in records
            for image in record.images
        ]
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower().lstrip(".") in NAMED_IMAGE_EXTENSIONS)
    if not files:
        raise ValueError(f"--against {folder}: neither shards (*.tar) nor images are in this folder.")
    return [Asked(benchmark=str(folder), question=str(path.relative_to(folder)), image=path) for path in files]


def look_at_asked(asked: Sequence[Asked]) -> list[tuple[Look | None, str]]:
    """What is known of each of these images, or why it cannot be read."""
    found: list[tuple[Look | None, str]] = []
    for each in asked:
        try:
            image = each.image if isinstance(each.image, bytes | Path) else each.image.read_bytes()
            found.append((look_at(decode(image)), ""))
        except (ValueError, OSError) as error:
            place = "" if isinstance(each.image, bytes) else f", {place_of(each.image)}"
            found.append((None, f"{each.benchmark} {each.question}{place}: {error}"))
    return found


class Album:
    """The images of the benchmarks as a folder, which every process reads without a copy of its own.

    Args:
        folder: written by `write`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[list[str]] = json.loads((folder / "asked.json").read_text())
        self.hashes = np.load(folder / "hashes.npy", mmap_mode="r")
        self.shows = np.load(folder / "shows.npy", mmap_mode="r")
        self._ends = np.load(folder / "ends.npy")
        self._digests: dict[bytes, list[int]] = {}
        for number, digest in enumerate(np.load(folder / "digests.npy")):
            self._digests.setdefault(digest.tobytes(), []).append(number)

    @staticmethod
    def write(folder: Path, asked: Sequence[Asked], looks: Sequence[Look]) -> None:
        """Write what is known of the images."""
        named = [[each.benchmark, each.question] for each in asked]
        (folder / "asked.json").write_text(json.dumps(named))
        np.save(folder / "hashes.npy", np.stack([look.hashes for look in looks]))
        np.save(folder / "shows.npy", np.stack([look.shows for look in looks]))
        np.save(folder / "digests.npy", np.stack([np.frombuffer(look.digest, np.uint8) for look in looks]))
        ends = []
        with (folder / "small.bin").open("wb") as file:
            for look in looks:
                look.small.save(file, "PNG", compress_level=1)
                ends.append(file.tell())
        np.save(folder / "ends.npy", np.array([0, *ends]))

    def small(self, number: int) -> Image.Image:
        """An image in small."""
        start, end = int(self._ends[number]), int(self._ends[number + 1])
        with (self.folder / "small.bin").open("rb") as file:
            file.seek(start)
            return Image.open(BytesIO(file.read(end - start))).convert("RGB")

    def like(self, look: Look) -> Iterator[tuple[int, str, float]]:
        """Number, kind and likeness of the images that show what another does."""
        same = self._digests.get(look.digest, [])
        yield from ((number, KINDS[0], 1.0) for number in same)
        for number, box, theirs in self._near(look):
            if number in same:
                continue
            small = self.small(number)
            found = alike(look.small, small, box) if theirs else alike(small, look.small, box)
            if found >= ALIKE:
                yield number, KINDS[1] if box == WHOLE else KINDS[2], found

    def _near(self, look: Look) -> Iterator[tuple[int, tuple, bool]]:
        """Images with a near hash: which, the part that has it, and whether it is theirs or that of the other."""
        whole, far = look.hashes[0], 65
        theirs = np.where(self.shows, bits_apart(self.hashes, whole), far) if look.shows[0] else None
        ours = np.where(self.shows[:, :1] & look.shows, bits_apart(self.hashes[:, :1], look.hashes), far)
        least = ours.min(1) if theirs is None else np.minimum(ours.min(1), theirs.min(1))
        for number in np.flatnonzero(least <= MAX_BITS):
            if theirs is not None and theirs[number].min() <= ours[number].min():
                yield int(number), PARTS[int(theirs[number].argmin())], True
            else:
                yield int(number), PARTS[int(ours[number].argmin())], False


# Images of the mix


@lru_cache(1)
def _album(folder: Path) -> Album:
    return Album(folder)


@lru_cache(4)
def _shards(path: str, exclude: str | None) -> Reader:
    return open_source(SourceSpec(name=path, path=path, exclude=exclude), "data")


def compare(spec: SourceSpec, start: int, stop: int, album: Path) -> tuple[list[Found], Counter[str], list[str]]:
    """The images of some samples of a source that are in a benchmark.

    Args:
        spec: of the source.
        start: first sample.
        stop: behind the last.
        album: folder of an `Album`.

    Returns:
        What was found; how many samples and images were read; what could not be.
    """
    reader = spec.reader if spec.path is None else _shards(spec.path, spec.exclude)
    found, counts, unread = [], Counter[str](), []
    for place in range(start, stop):
        counts["samples"] += 1
        shard, key = reader.describe(place)
        try:
            record = reader.record(place, 0)
            key = record.key
            looks = [look_at(decode(image)) for image in record.images]
        except (ValueError, OSError) as error:
            unread.append(f"{spec.name}: {shard} {key}: {error}")
            continue
        counts["images"] += len(looks)
        for number, look in enumerate(looks):
            for other, kind, likeness in _best_of_each(_album(album), look):
                benchmark, question = _album(album).asked[other]
                found.append(
                    Found(source=spec.name, shard=shard, key=key, image=number, kind=kind,
                          likeness=round(likeness, 4), benchmark=benchmark, question=question)
                )  # fmt: skip
    return found, counts, unread


def _best_of_each(album: Album, look: Look) -> list[tuple[int, str, float]]:
    """Of each benchmark the image that is most alike."""
    best: dict[str, tuple[int, str, float]] = {}
    for number, kind, likeness in album.like(look):
        name = album.asked[number][0]
        if name not in best or likeness > best[name][2]:
            best[name] = number, kind, likeness
    return list(best.values())


def specs_given(folders: Sequence[str], overrides: Sequence[str]) -> list[SourceSpec]:
    """The sources that are compared: folders of shards, or those of `data.train`."""
    if missing := [folder for folder in folders if not is_remote(folder) and not Path(folder).is_dir()]:
        raise ValueError(f"{missing[0]}: no such folder of shards. python -m data_prep pack makes one.")
    if folders:
        return [SourceSpec(name=folder, path=folder) for folder in folders]
    try:
        config = compose(list(overrides))
    except Exception as error:  # Hydra's own kinds
        raise ValueError(describe(error, "train", list(overrides))) from error
    return specs_of(config["data"]["train"])


# The command


def main(argv: list[str]) -> int:
    """Compare, print the table, and write the lists."""
    given = overlap_parser().parse_intermixed_args(argv)
    folders = [item for item in given.given if "=" not in item or Path(item).is_dir()]
    overrides = [item for item in given.given if item not in folders]
    overrides = [*([f"--config-dir={given.config_dir}"] if given.config_dir else []), *overrides]
    _check_out(given.out)
    specs = specs_given(folders, overrides)
    readers = [open_source(spec, f"data.train.sources.{spec.name}") for spec in specs]
    shared = [each for each in overrides if each.startswith(("data_root=", "--config-dir="))]
    asked = [each for name in given.against for each in images_asked(name, shared)]
    found: list[Found] = []
    counts: dict[str, Counter[str]] = {spec.name: Counter() for spec in specs}
    with TemporaryDirectory(prefix="dragonfly-overlap-") as folder, progress_bar() as progress:
        task = progress.add_task("images of the benchmarks", total=len(asked))
        unread = _write_album(Path(folder), asked, given.workers, lambda number: progress.advance(task, number))
        work = [
            (spec, start, min(start + CHUNK, len(reader)), Path(folder))
            for spec, reader in zip(specs, readers, strict=True)
            for start in range(0, len(reader), CHUNK)
        ]
        task = progress.add_task("samples of the mix", total=sum(map(len, readers)))
        for (spec, *_), (more, read, bad) in zip(work, in_order(compare, work, given.workers), strict=True):
            found += more
            counts[spec.name] += read
            unread += bad
            progress.advance(task, read["samples"])
    _write(given.out, specs, found)
    _tell(given.out, specs, found, counts, unread)
    return 0


def _check_out(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"--out {out} is there already and holds something. Name a folder that is not there yet.")


def _write_album(folder: Path, asked: list[Asked], workers: int, on_progress: Any) -> list[str]:
    """Write the album; what could not be read of it."""
    looks, kept, unread = [], [], []
    chunks = [asked[start : start + CHUNK] for start in range(0, len(asked), CHUNK)]
    for chunk, seen in zip(chunks, in_order(look_at_asked, ((chunk,) for chunk in chunks), workers), strict=True):
        for each, (look, problem) in zip(chunk, seen, strict=True):
            if look is None:
                unread.append(problem)
            else:
                looks.append(look)
                kept.append(each)
        on_progress(len(chunk))
    if not looks:
        raise ValueError(f"--against: none of {len(asked)} images can be read. {next(iter(unread), '')}")
    Album.write(folder, kept, looks)
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


def _write(out: Path, specs: Iterable[SourceSpec], found: Sequence[Found]) -> None:
    (out / "exclude").mkdir(parents=True)
    names = list_names(spec.name for spec in specs)
    with (out / TABLE_FILE).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Found.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(map(asdict, found))
    for spec in specs:
        keys = dict.fromkeys(each.key for each in found if each.source == spec.name)
        head = f"# samples of {spec.name} with an image of a benchmark, see {TABLE_FILE}\n"
        (out / "exclude" / names[spec.name]).write_text(head + "".join(f"{key}\n" for key in keys))


def _tell(
    out: Path, specs: Sequence[SourceSpec], found: Sequence[Found], counts: dict[str, Counter[str]], unread: list[str]
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
            table.add_row(spec.name, name, *(f"{kinds[kind]:,}" for kind in KINDS), f"{samples:,}",
                          f"{counts[spec.name]['samples']:,}")  # fmt: skip
        if not of_source:
            table.add_row(spec.name, "none", *("0",) * 4, f"{counts[spec.name]['samples']:,}")
    standard_output(markup=False).print(table)
    images = sum(each["images"] for each in counts.values())
    print(f"{images:,} images compared. {out / TABLE_FILE} has a line for each that was found.")
    names = list_names(spec.name for spec in specs)
    for spec in specs:
        if any(each.source == spec.name for each in found):
            print(f"data.train: give {spec.name} exclude: {out / 'exclude' / names[spec.name]}")
    if unread:
        print(f"{len(unread):,} could not be read and were not compared, the first of them: {unread[0]}")
