"""What a large pack takes: rate and memory of `data_prep pack`, whole and as parts, on a simulated table.

python benchmarks/pack_parts.py [--rows N] [--parts N] [--workers N] [--folder FOLDER]

A Parquet table of N rows, each with its own caption and the same small PNG, is written once and kept in FOLDER, and
packed in processes of their own. Memory is the peak of the process that reads the rows and joins the parts, and of its
largest worker; `start` is what the smallest table takes. Run again with the same FOLDER it goes on where it stopped:
what is packed already is not measured again, and what was begun has no rate.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

ROWS_A_GROUP = 1000
MEASURED = """
import resource, sys
from data_prep.__main__ import main
status = main(sys.argv[1:])
peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print("peak", *peaks, file=sys.stderr)
sys.exit(status)
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python benchmarks/pack_parts.py", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--rows", type=int, default=2_000_000, help="(default: %(default)s)")
    made.add_argument("--parts", type=int, default=2, help="machines, one after another (default: %(default)s)")
    made.add_argument("--workers", type=int, default=1, help="processes of each (default: %(default)s)")
    made.add_argument("--folder", type=Path, help="of the table and the shards (default: one that goes at the end)")
    return made


def write_table(path: Path, num_rows: int) -> None:
    """A table of captions, written a row group at a time; it appears when it is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    if path.is_file():
        return
    out = BytesIO()
    Image.effect_noise((16, 16), 64).convert("RGB").save(out, "PNG")
    image, partial = {"bytes": out.getvalue(), "path": None}, path.with_suffix(".partial")
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("caption", pa.string())]
    )
    with pq.ParquetWriter(partial, schema) as writer:
        for start in range(0, num_rows, ROWS_A_GROUP):
            numbers = range(start, min(start + ROWS_A_GROUP, num_rows))
            rows = [{"image": image, "caption": f"A small picture of noise, number {number}."} for number in numbers]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    partial.rename(path)


def pack(table: Path, out: Path, workers: int, *more: str) -> tuple[float, float, float]:
    """Pack in a process of its own: seconds, and the peaks of it and of its largest worker in MB."""
    command = ["pack", str(table), "--from", "parquet", "--out", str(out), "--source", "noise", "--licence", "CC0"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command, "--workers", str(workers), *more],
        check=False,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    own, worker = map(float, done.stderr.rsplit("peak", 1)[1].split())
    return seconds, own, worker


def measure(folder: Path, rows: int, parts: int, workers: int) -> None:
    """Print a line for the smallest table, for the whole pack, and for each part of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for num_rows in (ROWS_A_GROUP, rows):
        write_table(folder / f"{num_rows}.parquet", num_rows)
    table = folder / f"{rows}.parquet"
    shared = folder / f"{rows}-shared"
    runs = [
        ("start", folder / "start", folder / f"{ROWS_A_GROUP}.parquet", ""),
        ("whole", folder / f"{rows}-whole", table, ""),
        *((f"part {number}/{parts}", shared, table, f"{number}/{parts}") for number in range(1, parts + 1)),
    ]
    print(f"{rows:,} rows, {workers} worker{'s' * (workers != 1)}")
    print(f"{'':<12}{'seconds':>9}{'rows/s':>9}{'MB':>7}{'MB of a worker':>16}", flush=True)
    for name, out, source, part in runs:
        state = out / (f".pack-{part.replace('/', '-of-')}" if part else ".pack")
        if (out / "dataset.json").exists() or (state / "done.json").exists():
            print(f"{name:<12} is packed already", flush=True)
            continue
        begun = state.exists()
        seconds, own, worker = pack(source, out, workers, *(("--part", part) if part else ()))
        rate = "-" if begun else f"{(ROWS_A_GROUP if name == 'start' else rows) / seconds:,.0f}"
        print(f"{name:<12}{seconds:>9.1f}{rate:>9}{own:>7.0f}{worker:>16.0f}", flush=True)
    whole = folder / f"{rows}-whole"
    same = [path.read_bytes() == (shared / path.name).read_bytes() for path in sorted(whole.iterdir())]
    print(f"{sum(same)} of {len(same)} files are the same, byte for byte.")


def main() -> None:
    """Measure, in a folder that goes at the end unless one is given."""
    given = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="dragonfly-pack-") as spare:
        measure(given.folder or Path(spare), given.rows, given.parts, given.workers)


if __name__ == "__main__":
    main()
