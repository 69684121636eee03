"""A format of your own into shards: turn each row into a record, and let the package write and index them.

    python -m my_parts.pack_format rows.tsv data/mine       a line: image file, question, answer
    python ../train.py data=mine data.path=data/mine

Rows that the formats of `python -m data_prep pack --from` already know need no file of yours.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.data_prep.shards import write_shard

from dragonfly_lit.data.index import index_folder
from dragonfly_lit.spec.records import Record, Turn


def records(table: Path) -> Iterator[Record]:
    """One record a row: its images as they lie on the disk, and who says what about them."""
    with table.open(newline="", encoding="utf-8") as file:
        for number, (image, question, answer) in enumerate(csv.reader(file, delimiter="\t")):
            yield Record(
                key=f"{number:08d}",
                source="mine",
                turns=(Turn(role="user", text=question, num_images=1), Turn(role="assistant", text=answer)),
                images=((table.parent / image).read_bytes(),),
            )


def main() -> None:
    """Write the shard and its index."""
    table, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    write_shard(out / "00000.tar", records(table))
    index_folder(out)
    print(f"{out} is ready: dragonfly-data lint {out}")


if __name__ == "__main__":
    main()
