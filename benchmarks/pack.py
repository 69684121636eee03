"""What packing costs: `data_prep pack`, every check included, against a bare loop over webdataset's TarWriter.

python benchmarks/pack.py [--rows N] [--rounds N] [--workers N] [--parts] [--json FILE]

Both read the same LLaVA JSON with the same JPEG files, in turns; the bare loop checks nothing, writes no index and no
checksums, and computes the tar alone. CPU seconds of the process that packs; the least of the
rounds. Of several workers, which this process does not count, the time on the clock against that of one. `--parts`
times what a sample goes through, a part at a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python benchmarks/pack.py", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--rows", type=int, default=4000, help="(default: %(default)s)")
    made.add_argument("--shard-size", type=int, default=1000, help="rows a shard (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="of each way, in turns (default: %(default)s)")
    made.add_argument(
        "--workers", type=int, default=2, help="compared with one; 1 leaves it out (default: %(default)s)"
    )
    made.add_argument("--parts", action="store_true", help="what each part of packing costs, in place of the whole")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return made


def make_rows(folder: Path, num_rows: int) -> Path:
    """A LLaVA JSON of `num_rows` rows, two exchanges each, about 50 JPEG files of 320x240 pixels."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(50):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(folder / "images" / f"{number}.jpg", quality=90)
    rows = [
        {
            "id": f"row-{number}",
            "image": f"{number % 50}.jpg",
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat does picture {number} show?"},
                {"from": "gpt", "value": f"Several colours that run into one another, number {number}. " * 4},
                {"from": "human", "value": "Why do they?"},
                {"from": "gpt", "value": "Because the picture was drawn small and made large."},
            ],
        }
        for number in range(num_rows)
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return path


def bare_loop(rows: Path, out: Path, shard_size: int) -> None:
    """What anybody would write with webdataset: no check, no index, no checksum."""
    from webdataset.writer import TarWriter

    out.mkdir(parents=True)
    listed = json.loads(rows.read_bytes())
    for first in range(0, len(listed), shard_size):
        with (out / f"{first:06d}.tar").open("wb") as file, TarWriter(file) as writer:
            for number, row in enumerate(listed[first : first + shard_size], first):
                image = (rows.parent / "images" / row["image"]).read_bytes()
                writer.write({"__key__": f"s-{number:08d}", "json": row, "jpg": image})


def packed(rows: Path, out: Path, shard_size: int, workers: int) -> None:
    """What `data_prep pack` does."""
    from data_prep.job import Job
    from data_prep.packing import pack

    images = rows.parent / "images"
    pack(
        Job(form="llava", path=rows, images=images, out=out, source="s", licence="MIT", shard_size=shard_size),
        workers=workers,
    )


def seconds(way: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of this process, and seconds on the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    way()
    return time.process_time() - cpu, time.perf_counter() - clock


def measure_parts(num_rows: int, rounds: int) -> dict[str, float]:
    """The least CPU milliseconds a sample of each thing that is done to it, all samples one after the other."""
    from collections import Counter
    from hashlib import sha256

    from data_prep.images import load_image, read_image
    from data_prep.job import Job
    from data_prep.metadata import metadata_in
    from data_prep.records import records_of
    from data_prep.shards import sample_members
    from data_prep.sources import source
    from dragonfly_lit.data.scan import row_of
    from dragonfly_lit.io.tar_writer import SampleWriter

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_rows(folder, num_rows)
        job = Job(form="llava", path=path, images=folder / "images", out=folder / "out", source="s", licence="MIT")
        form = source(job.form)
        rows = list(form.rows(path, job.options))
        records = list(records_of(job, 0, rows, [], {}, Counter()))
        images = [record.images[0] for record in records]
        with (folder / "shard.tar").open("wb", 2**20) as file:
            writer = SampleWriter(file)

            def written() -> list[bytes]:
                file.seek(0)
                return [writer.write(record.key, sample_members(record)) for record in records]

            samples = written()
            ways: dict[str, Callable[[], object]] = {
                "the bare loop": lambda: (bare_loop(path, job.out, 1000), shutil.rmtree(job.out)),
                "a row into turns": lambda: [form.conversation(row, job.options) for row in rows],
                "its image's file read": lambda: [read_image(f"{n % 50}.jpg", job.images) for n in range(num_rows)],
                "the image's header": lambda: [load_image(image, None) for image in images],
                "its metadata": lambda: [metadata_in(image) for image in images],
                "JSON and tar written": written,
                "SHA-256 of the tar, as written and as on the disk": lambda: [
                    sha256(data).digest() for data in samples for _ in range(2)
                ],
                "read back, with SHA-256 of the image": lambda: [
                    row_of("s", record.key, data) for record, data in zip(records, samples, strict=True)
                ],
            }
            ways["the bare loop"]()  # imports webdataset
            least = dict.fromkeys(ways, float("inf"))
            for _ in range(rounds):
                for what, way in ways.items():
                    least[what] = min(least[what], seconds(way)[0])
            return {what: time / num_rows * 1e3 for what, time in least.items()}


def measure(num_rows: int, shard_size: int, rounds: int, workers: int) -> dict[str, Any]:
    """The least CPU milliseconds a sample of each way, and the gain of several workers on the clock."""
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, out = make_rows(folder, num_rows), folder / "out"
        ways: dict[str, Callable[[], None]] = {
            "webdataset": lambda: bare_loop(rows, out, shard_size),
            "pack": lambda: packed(rows, out, shard_size, 1),
        }
        if workers > 1:
            ways[f"pack, {workers} workers"] = lambda: packed(rows, out, shard_size, workers)
        for way in ways.values():  # imports, and the disk's cache
            way()
            shutil.rmtree(out)
        for _ in range(rounds):
            for what, way in ways.items():
                found.setdefault(what, []).append(seconds(way))
                shutil.rmtree(out)
    least = {
        what: [min(column) / num_rows * 1e3 for column in zip(*times, strict=True)] for what, times in found.items()
    }
    figures = {
        what: {"cpu_ms": None if "workers" in what else round(cpu, 4), "clock_ms": round(clock, 4)}
        for what, (cpu, clock) in least.items()
    }
    ratio = least["pack"][0] / least["webdataset"][0]
    gain = least["pack"][1] / least[f"pack, {workers} workers"][1] if workers > 1 else None
    return {"rows": num_rows, "ways": figures, "pack_to_webdataset": ratio, "gain_of_workers": gain}


def main(argv: list[str] | None = None) -> int:
    """Measure and print a table."""
    given = parser().parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parents[1]))  # data_prep of this clone
    if given.parts:
        parts = measure_parts(given.rows, given.rounds)
        for what, least in parts.items():
            print(f"{what:<52}{least:.4f} ms")
        if given.json is not None:
            given.json.write_text(json.dumps({"rows": given.rows, "rounds": given.rounds, "parts": parts}, indent=1))
        return 0
    found = measure(given.rows, given.shard_size, given.rounds, given.workers)
    print(f"{'':<20}{'CPU ms a sample':>18}{'clock ms a sample':>20}")
    for what, figures in found["ways"].items():
        cpu = "" if figures["cpu_ms"] is None else f"{figures['cpu_ms']:.3f}"
        print(f"{what:<20}{cpu:>18}{figures['clock_ms']:>20.3f}")
    print(f"pack costs {found['pack_to_webdataset']:.2f} times the CPU of the bare loop.")
    if found["gain_of_workers"] is not None:
        print(f"{given.workers} workers are {found['gain_of_workers']:.2f} times as fast as one.")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
