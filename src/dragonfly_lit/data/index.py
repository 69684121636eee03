"""Where every sample of a shard begins, what it holds, and the list of a folder's shards.

`NAME.tar.idx` has n+1 little-endian uint64 offsets (megatron-energon's format), `NAME.tar.meta.jsonl` one row a sample
(`Row`), `dataset.json` the shards of the folder with their counts, sizes and checksums. Whatever is missing is built on
first use by walking the tar's headers once, and written atomically: beside the shards, or where that cannot be, in a
folder of the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from dragonfly_lit.data.members import split_name
from dragonfly_lit.data.scan import Row, Scan, scan_shard
from dragonfly_lit.io import atomic
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES, Gap, read_from, walk
from dragonfly_lit.spec.shard import DATASET_FILE, INDEX_SUFFIX, SCHEMA_VERSION, SIDECAR_SUFFIX

READER_VERSION = 2
"""Raised when shards of which an index exists are read in another way: an older index is then looked at once more."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard as `dataset.json` lists it."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str

    @property
    def index_bytes(self) -> int:
        """Of its index: where each sample begins and the last one ends, 8 bytes each."""
        return 8 * (self.num_samples + 1)


def _sha256(shard: Path) -> str:
    with shard.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_index(shard: Path, scan: Scan, folder: Path | None = None) -> ShardEntry:
    """Write the shard's index and sidecar, and say how `dataset.json` lists it.

    Args:
        shard: the tar.
        scan: of the shard.
        folder: where to; None is beside the shard.
    """
    encode = json.JSONEncoder(ensure_ascii=False).encode
    header = {"schema_version": SCHEMA_VERSION, "shard": shard.name, "num_bytes": shard.stat().st_size}
    lines = [json.dumps(header), *(encode(_compact(row)) for row in scan.rows)]
    text = "\n".join(lines) + "\n"
    atomic.write(sidecar_path(shard, folder), text.encode("utf-8", "backslashreplace"))
    atomic.write(index_path(shard, folder), scan.offsets.tobytes())
    return ShardEntry(
        name=shard.name, num_samples=len(scan.rows), num_bytes=shard.stat().st_size, sha256=_sha256(shard)
    )


def _compact(row: Row) -> dict[str, object]:
    return {k: v for k, v in vars(row).items() if k not in ("share_image", "preference", "error") or v}


def build_index(shard: Path, folder: Path | None = None, max_member_bytes: int = MAX_MEMBER_BYTES) -> ShardEntry:
    """Index one shard: writes `SHARD.idx` and `SHARD.meta.jsonl`.

    Args:
        shard: the tar.
        folder: where to; None is beside the shard.
        max_member_bytes: of a member.

    Raises:
        ValueError: the tar is cut, broken or compressed; the message names it and the byte.
    """
    scan = scan_shard(shard, max_member_bytes)
    if scan.cut:
        raise ValueError(damaged(shard, scan))
    return write_index(shard, scan, folder)


def damaged(shard: Path, scan: Scan) -> str:
    """What a shard that is not whole is refused with."""
    return (
        f"shard {shard}: {scan.cut}. Fetch or write it again, or set on_error: skip to read what is whole: "
        f"{sum(not row.error for row in scan.rows)} samples."
    )


def index_path(shard: Path, folder: Path | None = None) -> Path:
    """Where the offsets of a shard's samples lie: beside it, or in another folder."""
    return (folder or shard.parent) / (shard.name + INDEX_SUFFIX)


def sidecar_path(shard: Path, folder: Path | None = None) -> Path:
    """Where the rows of a shard's samples lie: beside it, or in another folder."""
    return (folder or shard.parent) / (shard.name + SIDECAR_SUFFIX)


def read_rows(shard: Path, folder: Path | None = None) -> list[Row]:
    """The sidecar's rows, in the shard's order.

    Args:
        shard: the tar.
        folder: of the sidecar; None is beside the shard.

    Raises:
        ValueError: the sidecar is another shard's or another version's, or is damaged.
    """
    path = sidecar_path(shard, folder)
    way_out = f"Write it anew: python -m data_prep index {shard.parent}"
    try:
        # Not splitlines: a key may hold any of the other characters that Unicode ends a line with.
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
        version = json.loads(lines[0]).get("schema_version")
        if version == SCHEMA_VERSION:
            return [Row(**json.loads(line)) for line in lines[1:]]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}). {way_out}") from None
    raise ValueError(f"{path}: schema version {version}, this reader has {SCHEMA_VERSION}. {way_out}")


def is_outdated(shard: Path) -> bool:
    """Whether an index of an earlier version misses samples of its shard: joined archives, or names it did not read."""
    with index_path(shard).open("rb") as index, shard.open("rb") as file:
        index.seek(-8, os.SEEK_END)
        covered = int.from_bytes(index.read(8), "little")
        if not is_covered(file.fileno(), covered):
            return True
    return sidecar_path(shard).is_file() and b'"error": ' in sidecar_path(shard).read_bytes()


def is_covered(fd: int, covered: int) -> bool:
    """Whether no sample, and nothing that cannot be read, lies behind the first `covered` bytes of an open shard."""
    behind = walk(read_from(fd), os.fstat(fd).st_size, covered)
    return not any(item.why if isinstance(item, Gap) else split_name(item.name) for item in behind)


def write_dataset_file(folder: Path, entries: list[ShardEntry], *, licence: str = "") -> None:
    """Write `dataset.json`: schema version, licence, number of samples, and the shards in order."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "reader_version": READER_VERSION,
        "licence": licence,
        "num_samples": sum(e.num_samples for e in entries),
        "shards": [asdict(entry) for entry in entries],
    }
    atomic.write(folder / DATASET_FILE, (json.dumps(content, indent=1) + "\n").encode())


def read_dataset_file(content: bytes | str, path: str) -> list[ShardEntry]:
    """The shards of a `dataset.json`; `path` is for the message.

    Raises:
        ValueError: it is not JSON, of another version, or lists a shard outside its folder.
    """
    way_out = "Write it anew: python -m data_prep index FOLDER"
    try:
        fields = json.loads(content)
        version = fields["schema_version"]
        entries = [_entry(entry) for entry in fields["shards"]] if version == SCHEMA_VERSION else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a list of shards ({error}). {way_out}") from None
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema version {version}, but this reader has {SCHEMA_VERSION}. {way_out}")
    strays = [e.name for e in entries if "/" in e.name or not e.name.endswith(".tar")]
    if strays:
        raise ValueError(f"{path} lists {strays[0]!r}: a shard is a .tar in the same folder. {way_out}")
    return entries


def _entry(fields: dict[str, object]) -> ShardEntry:
    entry = ShardEntry(**fields)  # type: ignore[arg-type]  # whatever the file says, which is checked here
    for name, kind in (("name", str), ("sha256", str), ("num_samples", int), ("num_bytes", int)):
        value = getattr(entry, name)
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
            raise ValueError(f"{name} is {value!r:.60}")
    return entry


def read_dataset_facts(content: bytes | str) -> tuple[int, str]:
    """Version of the reader that made a `dataset.json`, which `read_dataset_file` took, and the licence it names."""
    fields = json.loads(content)
    version = fields.get("reader_version")
    return version if isinstance(version, int) else 1, str(fields.get("licence", ""))


def index_folder(folder: Path, *, licence: str = "") -> list[ShardEntry]:
    """Index every `*.tar` of a folder, in the order of their names, and write `dataset.json`."""
    entries = [build_index(shard) for shard in sorted(folder.glob("*.tar"))]
    write_dataset_file(folder, entries, licence=licence)
    return entries
