"""`lint`: every sample is read, decoded and compared with what the index says; exit status 1 if anything is wrong."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest
from pathlib import Path

from rich.table import Table

from dragonfly_lit.data.index import ShardEntry, index_path, read_dataset_file, read_rows, sidecar_path
from dragonfly_lit.data.members import BadSampleError, printable, raw_sample, to_record
from dragonfly_lit.data.samples import check_record
from dragonfly_lit.data.scan import Scan, scan_shard
from dragonfly_lit.data.table_files import without_shards
from dragonfly_lit.io.amounts import count
from dragonfly_lit.io.console import standard_output
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES
from dragonfly_lit.io.text import counted
from dragonfly_lit.processing.images import decode, is_faint
from dragonfly_lit.processing.prompts import render
from dragonfly_lit.spec.samples import Record, Turn
from dragonfly_lit.spec.shard import DATASET_FILE, NAMED_IMAGE_EXTENSIONS

from .arguments import command_parser
from .metadata import metadata_in
from .parallel import in_order, num_workers
from .progress import follow

ROWS_SHOWN = 50
TWICE = "key is there {} times: a sample needs a key of its own, and its members lie one after the other"
FILE_NAME = re.compile(rf"\.(?:{'|'.join(NAMED_IMAGE_EXTENSIONS)})$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something to know about a shard or a sample; `wrong` if training would stop at it or skip it."""

    shard: str
    key: str
    what: str
    wrong: bool = True


@dataclass(frozen=True, kw_only=True)
class Linted:
    """What was found in one shard, and key, checksum of each of its samples."""

    shard: str
    findings: list[Finding]
    samples: list[tuple[str, str]]


def lint_folder(folder: Path, workers: int = 1) -> tuple[int, list[Finding]]:
    """Number of samples read, and every finding in the order of the shards.

    Raises:
        ValueError: the folder has no shard.
    """
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise without_shards(folder)
    findings, listed = _listing(folder, shards)
    seen: dict[str, str] = {}
    first: dict[str, str] = {}
    num_samples = 0
    linted = in_order(lint_shard, ((shard, listed.get(shard.name)) for shard in shards), workers)
    for found in follow(linted, f"reading {folder}", len(shards)):
        findings += found.findings
        num_samples += len(found.samples)
        findings += _repeated(found, seen, first)
    return num_samples, findings


def _listing(folder: Path, shards: list[Path]) -> tuple[list[Finding], dict[str, ShardEntry]]:
    """What dataset.json says, and where it and the folder differ."""
    path = folder / DATASET_FILE
    if not path.is_file():
        note = "not there yet; it is made on first use or by: python -m data_prep index"
        return [Finding(shard=DATASET_FILE, key="", what=note, wrong=False)], {}
    try:
        entries = {entry.name: entry for entry in read_dataset_file(path.read_bytes(), str(path))}
    except ValueError as error:
        return [Finding(shard=DATASET_FILE, key="", what=str(error))], {}
    names = {shard.name for shard in shards}
    gone = [
        Finding(shard=name, key="", what=f"listed in {DATASET_FILE}, but missing") for name in entries.keys() - names
    ]
    new = [Finding(shard=name, key="", what=f"not listed in {DATASET_FILE}") for name in names - entries.keys()]
    return sorted([*gone, *new], key=lambda finding: finding.shard), entries


def _repeated(found: Linted, seen: dict[str, str], first: dict[str, str]) -> Iterator[Finding]:
    for key, checksum in found.samples:
        if seen.setdefault(key, found.shard) != found.shard:
            yield Finding(shard=found.shard, key=printable(key), what=f"key is also in {seen[key]}")
        elif checksum and (same := first.setdefault(checksum, key)) != key:
            yield Finding(shard=found.shard, key=printable(key), what=f"exact copy of {printable(same)}", wrong=False)


def lint_shard(shard: Path, entry: ShardEntry | None) -> Linted:
    """Read and decode every sample of a shard, and compare its index, its sidecar and its entry in dataset.json."""
    try:
        scan = scan_shard(shard)
    except ValueError as error:
        return Linted(shard=shard.name, findings=[Finding(shard=shard.name, key="", what=str(error))], samples=[])
    told = [*_losses(scan), *_disagreements(shard, scan, entry)]
    findings = [Finding(shard=shard.name, key="", what=what) for what in told]
    for what, n in sorted(scan.num_unread.items()):
        findings.append(Finding(shard=shard.name, key="", what=f"{n} {what} members are not read", wrong=False))
    kept: dict[str, list[str]] = {}
    keys = Counter(row.key for row in scan.rows)
    twice = {printable(key): n for key, n in keys.items() if n > 1}
    findings += [Finding(shard=shard.name, key=key, what=TWICE.format(n)) for key, n in twice.items()]
    with shard.open("rb") as file:
        for place, (row, start, end) in enumerate(zip(scan.rows, scan.starts, scan.ends, strict=True)):
            if place in scan.torn or end - start > 2 * MAX_MEMBER_BYTES:
                findings.append(Finding(shard=shard.name, key=printable(row.key), what=row.error))
                continue
            file.seek(start)
            findings += _lint_sample(shard.name, printable(row.key), file.read(end - start), kept)
    for what, found in kept.items():
        told = f"{len(found)} sample{'s' * (len(found) > 1)} with {what}; the first is {found[0]}"
        findings.append(Finding(shard=shard.name, key="", what=told, wrong=False))
    return Linted(shard=shard.name, findings=findings, samples=[(row.key, row.checksum) for row in scan.rows])


def _losses(scan: Scan) -> Iterator[str]:
    """What cannot be read between the samples, and how many of them it may have been."""
    if not scan.gaps:
        return
    mean = sum(end - start for start, end in zip(scan.starts, scan.ends, strict=True)) / max(1, len(scan.rows))
    for gap in scan.gaps:
        before = bisect_left(scan.starts, gap.start)
        behind = printable(scan.rows[before - 1].key) if before else "the start"
        num_lost = round((gap.end - gap.start) / mean) if mean else 0
        lost = f"; lost: {num_lost} samples, by their mean size" if num_lost else ""
        yield f"{gap}, behind {behind}{lost}"
    yield f"not whole: {scan.cut.rpartition('; ')[2]} the damage"


def _disagreements(shard: Path, scan: Scan, entry: ShardEntry | None) -> Iterator[str]:
    if entry is not None:
        num_bytes = shard.stat().st_size
        if (entry.num_samples, entry.num_bytes) != (len(scan.rows), num_bytes):
            yield (
                f"{len(scan.rows)} samples in {num_bytes} bytes, "
                f"but {DATASET_FILE} says {entry.num_samples} in {entry.num_bytes}"
            )
        else:
            with shard.open("rb") as file:
                if file_digest(file, "sha256").hexdigest() != entry.sha256:
                    yield f"bytes changed: sha256 is not the one in {DATASET_FILE}"
    if index_path(shard).is_file() and index_path(shard).read_bytes() != scan.offsets.tobytes():
        yield "its index points elsewhere: python -m data_prep index writes it anew"
    if sidecar_path(shard).is_file():
        try:
            if read_rows(shard) != scan.rows:
                yield "its sidecar says other keys, sizes or checksums: python -m data_prep index writes it anew"
        except (ValueError, TypeError, AttributeError) as error:
            yield f"its sidecar cannot be read: {error}"


def _lint_sample(shard: str, key: str, data: bytes, kept: dict[str, list[str]]) -> Iterator[Finding]:
    """What is to be said of a sample; what many samples have alike is added to `kept`, with the sample's key."""
    try:
        record = to_record(raw_sample(shard, data))
    except BadSampleError as error:
        yield Finding(shard=shard, key=key, what=error.reason)
        return
    for what in _says_more(record):
        kept.setdefault(what, []).append(key)
    checks = [lambda: check_record(record), lambda: _check_text(record)]
    checks += [partial(_check_image, number, image) for number, image in enumerate(record.images)]
    for check in checks:
        try:
            note = check()
        except ValueError as error:
            yield Finding(shard=shard, key=key, what=str(error))
        except Exception as error:  # training skips for these too
            yield Finding(shard=shard, key=key, what=f"{type(error).__name__}: {error}")
        else:
            if note:
                yield Finding(shard=shard, key=key, what=note, wrong=False)
    yield from (Finding(shard=shard, key=key, what=what, wrong=wrong) for what, wrong in _conversation(record))


def _says_more(record: Record) -> Iterator[str]:
    """What a sample would tell of a person besides its pixels and its text."""
    kinds: dict[str, None] = {}
    for image in record.images:
        with suppress(ValueError):  # another format, or damaged, which is found when it is decoded
            kinds |= dict.fromkeys(metadata_in(image))
    yield from (f"an image with metadata, {kind}: pack --strip-metadata leaves it out" for kind in kinds)
    if isinstance(name := record.meta.get("id"), str) and FILE_NAME.search(name):
        yield "the name of a file as its id: pack --hash-names keeps a code in its place"


def _check_text(record: Record) -> None:
    """What every tokenizer is given."""
    render([*record.turns, Turn(role="assistant", text=record.rejected)])


def _check_image(number: int, image: bytes) -> str | None:
    """What is to know of an image that can be decoded."""
    try:
        faint = is_faint(decode(image))
    except ValueError as error:
        raise ValueError(f"image {number}: {error}") from error
    told = f"image {number}: its pixels use less than a tenth of black to white; pack --window can widen it"
    return told if faint else None


def _conversation(record: Record) -> Iterator[tuple[str, bool]]:
    empty = [n for n, turn in enumerate(record.turns, 1) if turn.role == "assistant" and not turn.text.strip()]
    if empty:
        yield f"turn {empty[0]}, an answer, is empty: its end alone is learnt", False
    roles = [turn.role for turn in record.turns]
    asked = roles[roles.count("system") :]
    if record.share_image and asked != ["user", "assistant"] * (len(asked) // 2):
        yield f"share_image=true needs pairs of a user's and an assistant's turn, not {', '.join(roles)}", True
    first = next((turn for turn in record.turns if turn.role == "user"), None)
    if first is not None and not first.text.strip() and not record.is_caption:
        yield "the question is empty: give the source a prompt set", False


def table(findings: Iterable[Finding]) -> Table:
    """The first findings, those that are wrong before the notes."""
    shown = Table("shard", "sample", "finding", box=None)
    ordered = sorted(findings, key=lambda finding: not finding.wrong)
    for finding in ordered[:ROWS_SHOWN]:
        style = "red" if finding.wrong else "dim"
        shown.add_row(finding.shard, finding.key, finding.what, style=style)
    if len(ordered) > ROWS_SHOWN:
        shown.add_row("...", "", f"and {len(ordered) - ROWS_SHOWN} more; --all shows every one", style="dim")
    return shown


def main(argv: list[str]) -> int:
    """Lint folders; 1 if anything is wrong in one of them."""
    parser = command_parser("lint", __doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a folder of shards")
    parser.add_argument("--workers", type=count, default=num_workers(), help="processes (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help=f"print every finding, not the first {ROWS_SHOWN}")
    given = parser.parse_args(argv)
    any_wrong = False
    for folder in given.folders:
        num_samples, findings = lint_folder(folder, given.workers)
        num_wrong = sum(finding.wrong for finding in findings)
        if findings and given.all:
            for finding in findings:
                kind = "wrong" if finding.wrong else "note"
                print(kind, finding.shard, finding.key or "-", printable(finding.what), sep="\t")
        elif findings:
            standard_output(markup=False).print(table(findings))
        notes = len(findings) - num_wrong
        print(f"{folder}: {counted(num_samples, 'sample')} read, {num_wrong} wrong, {counted(notes, 'note')}.")
        any_wrong |= num_wrong > 0
    return int(any_wrong)
