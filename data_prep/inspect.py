"""`inspect`: a sample as the model sees it: a picture of its crops by level, its tokens with the supervised marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from dragonfly_lit.app.data import configure, opening, train_mix
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.shards import Shards
from dragonfly_lit.data.source import Reader, Source
from dragonfly_lit.data.source_spec import SourceSpec
from dragonfly_lit.data.table_files import table_files
from dragonfly_lit.io.console import standard_output
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sample, Sequence
from dragonfly_lit.spec.tokens import IGNORE

from .arguments import inspect_parser, overrides_of
from .drawing import Piece, crops_picture, page, pieces, stacked, terminal_text


def find_sample(source: Source, wanted: str) -> Sample:
    """The sample with the key `wanted`, or, when that is digits, in that place of the source.

    Raises:
        ValueError: the source has no such sample.
    """
    if wanted.isdigit():
        place = int(wanted)
        if place >= len(source):
            last = len(source) - 1
            raise ValueError(f"--sample {wanted}: {source.name} has {len(source)} samples; use 0 to {last}.")
    else:
        place = next((place for place, key in enumerate(_keys(source.reader)) if key == wanted), -1)
        if place < 0:
            raise ValueError(f"--sample {wanted}: no sample of {source.name} has this key.")
    return source.sample(place, source.record(place, epoch=0))


def _keys(reader: Reader) -> Iterator[str]:
    """Key of each sample: from the sidecars of shards, from the records of a reader of the user's own."""
    if isinstance(reader, Shards):
        yield from (row.key for number in range(len(reader.entries)) for row in reader.rows(number))
    else:
        yield from (reader.record(index, 0).key for index in range(len(reader)))


def draw_sample(sample: Sample, builder: SequenceBuilder) -> tuple[Sequence, list[Piece], Image.Image | None]:
    """What the builder makes of a sample: the sequence, its tokens in pieces, and its crops in a picture."""
    sequence = builder.build(sample)
    pictures = [crops_picture(crops, builder.layout) for crops in sequence.crops]
    return sequence, pieces(sequence, builder.tokenizer), stacked(pictures) if pictures else None


def facts(sample: Sample, sequence: Sequence, builder: SequenceBuilder) -> str:
    """Where the tokens of a sample go, in one line."""
    supervised = int((sequence.labels != IGNORE).sum())
    sizes = ", ".join(f"{image.width}x{image.height}" for image in sample.images) or "none"
    branches = int(sequence.branch_ids.max())
    shared = f"; {branches} questions share the image" if branches else ""
    return (
        f"{len(sequence)} tokens: {len(sample.images) * builder.layout.num_tokens} of images ({sizes}), "
        f"{supervised} supervised{shared}."
    )


def file_name(key: str) -> str:
    """A name for the files of a sample: its key, which may have folders and any character, as one path component."""
    plain = "".join(c if c.isprintable() and c != "/" else "-" for c in key).lstrip(".-") or "sample"
    return plain.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")


def main(argv: list[str]) -> int:
    """Show one sample on the terminal, and write DIR/KEY.png and DIR/KEY.html."""
    given = inspect_parser().parse_intermixed_args(argv)
    folders = [Path(item) for item in given.given if "=" not in item or Path(item).is_dir()]
    given.overrides = [item for item in given.given if Path(item) not in folders]
    folders += [given.folder] if given.folder else []
    if len(folders) > 1:
        raise ValueError(f"one folder at a time, not {' and '.join(map(str, folders))}.")

    config, builder = configure(overrides_of(given))
    source = _folder_source(folders[0], config) if folders else _mix_source(config, given.source)
    sample = find_sample(source, given.sample)
    sequence, found, picture = draw_sample(sample, builder)
    told = facts(sample, sequence, builder)
    console = standard_output(markup=False)
    console.print(f"{sample.key} of {source.name}: {told}", highlight=False)
    console.print(terminal_text(found))
    given.out.mkdir(parents=True, exist_ok=True)
    name = file_name(sample.key)
    written = [given.out / f"{name}.html"]
    written[0].write_text(page(f"{sample.key} of {source.name}", told, found, picture))
    if picture is not None:
        written.append(given.out / f"{name}.png")
        picture.save(written[1])
    print(f"wrote {' and '.join(map(str, written))}")
    return 0


def _folder_source(folder: Path, config: dict[str, Any]) -> Source:
    spec, how = SourceSpec(name=str(folder), path=str(folder)), opening(config)
    reader = open_source(spec, str(folder), **how) if table_files(str(folder)) else open_dataset(folder, **how)
    return Source(spec=spec, reader=reader, seed=0, max_pixels=config["data"]["max_pixels"])


def _mix_source(config: dict[str, Any], name: str | None) -> Source:
    mix = train_mix(config)
    names = [source.name for source in mix.sources]
    if name is None:
        return mix.sources[0]
    if name not in names:
        raise ValueError(f"--source {name} is not in data.train. Use one of {', '.join(names)}.")
    return mix.sources[names.index(name)]
