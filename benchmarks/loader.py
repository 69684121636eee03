"""Reader, order, packing and resume, each as a ratio to webdataset's own pipeline or to a stated limit, in one run.

python benchmarks/loader.py                 # all of it, about ten minutes on one core
python benchmarks/loader.py --only packing  # one part
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from rich.console import Console
from rich.table import Table

from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.data.index import index_folder
from dragonfly_lit.data.order import SourceOrder
from dragonfly_lit.data.packing import Planned, fill
from dragonfly_lit.data.quarantine import Quarantine
from dragonfly_lit.data.shards import Shards
from dragonfly_lit.data.stream import Stream
from dragonfly_lit.models.tiny import tiny_tokenizer
from dragonfly_lit.processing.batches import collate
from dragonfly_lit.processing.images import decode
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.records import Record, Sample, Turn
from dragonfly_lit.spec.shard import record_from_json, record_to_json

V1 = Layout(image_size=224, patch_size=32, class_token=True, zoom=Zoom())
PAD = 0
ROWS = dict[str, float]


def photograph(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG with as much detail as a photograph: smoothed noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    out = BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def write(folder: Path, count: int, per_shard: int, image: bytes) -> Path:
    folder.mkdir(parents=True)
    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=per_shard, verbose=0) as writer:  # type: ignore[attr-defined]
        for number in range(count):
            turns = (
                Turn(role="user", text="What is it?", num_images=1),
                Turn(role="assistant", text=f"It is {number}."),
            )
            record = Record(key=f"k{number:07d}", source="x", turns=turns, images=(image,))
            writer.write({"__key__": record.key, "json": json.dumps(record_to_json(record)).encode(), "jpg": image})
    index_folder(folder)
    return folder


def module(folder: Path, **overrides) -> DragonflyDataModule:
    builder = SequenceBuilder(tokenizer=tiny_tokenizer(), layout=V1, max_tokens=2048)
    fields = {"batch": {"size": 16}, "num_workers": 0, "epoch": {"steps": 10**6}, **overrides}
    return DragonflyDataModule(train={"sources": {"x": {"path": str(folder)}}}, builder=builder, pad_id=PAD, **fields)


def rate(samples: Iterable, count: int, per_item: int = 1) -> float:
    """Samples a second over `count` of them, the first ones aside."""
    iterator = iter(samples)
    for _ in range(max(1, count // 10 // per_item)):
        next(iterator)
    start = time.perf_counter()
    for _ in range(count // per_item):
        next(iterator)
    return count // per_item * per_item / (time.perf_counter() - start)


def best(function: Callable[[], float], repeats: int = 3) -> float:
    return max(function() for _ in range(repeats))


def theirs(folder: Path) -> Iterable:
    urls = sorted(map(str, folder.glob("*.tar")))
    return webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1000).repeat()  # type: ignore[attr-defined]


def ours(folder: Path) -> Iterator:
    shards = Shards(folder)
    order, position = SourceOrder("x", len(shards), 0, 1, 32, 4096), (0, 0, 0)
    while True:
        index, position = order.take(0, *position)
        yield shards.read(index)


def reading(home: Path) -> ROWS:
    """Samples a second, shuffled, with and without decoding and crops, one process."""
    folder = write(home / "reading", 4000, 500, photograph(320, 240))
    builder = module(folder).builder

    def build(raw: dict):
        record = record_from_json(raw["__key__"], json.loads(raw["json"]), (raw["jpg"],))
        sample = Sample(key=record.key, source="x", turns=record.turns, images=tuple(map(decode, record.images)))
        return builder.build(sample)

    def batches():
        return theirs(folder).map(build).batched(16, collation_fn=lambda rows: collate(rows, pad_id=PAD))  # type: ignore[attr-defined]

    found: ROWS = {
        "ours_raw": best(lambda: rate(ours(folder), 10_000)),
        "webdataset_raw": best(lambda: rate(theirs(folder), 5000)),
        "ours_decoded": best(lambda: rate(module(folder).train_dataloader(), 320, 16)),
        "webdataset_decoded": best(lambda: rate(batches(), 320, 16)),
    }
    found["raw_ratio"] = found["ours_raw"] / found["webdataset_raw"]
    found["decoded_ratio"] = found["ours_decoded"] / found["webdataset_decoded"]
    return found


def resume(home: Path) -> ROWS:
    """Seconds from the checkpoint's state to the first micro-batch, at 90% of 100,000 samples."""
    folder = write(home / "resume", 100_000, 1000, photograph(32, 32))
    data = module(folder)
    data.position.num_consumed = 90_000 // 16
    orders = [SourceOrder("x", 100_000, 0, 96, 32, 4096)]
    for number in range(96):
        stream = Stream(
            number, mix=data.mix, orders=orders, shape=data.shape, builder=data.builder, quarantine=Quarantine()
        )
        for _ in range(90_000 // 96 // 16 * 16):
            stream.draw()
        data.position.streams[number] = stream.state()
    state = data.state_dict()
    again = module(folder)
    next(iter(again.train_dataloader()))
    start = time.perf_counter()
    again.load_state_dict(state)
    loader = again.train_dataloader()
    next(iter(loader))
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    samples = iter(theirs(folder))
    for _ in range(90_000):
        next(samples)
    forward = time.perf_counter() - start
    return {"resume_seconds": seconds, "fast_forward_seconds": forward, "ratio": forward / seconds}


def batch_variance(labels: np.ndarray, size: int) -> float:
    """Variance of the batches' means over that of a full shuffle."""
    means = labels[: len(labels) // size * size].reshape(-1, size).mean(1)
    return float(means.var() / (labels.var() / size))


def shuffle(home: Path) -> ROWS:
    """Variance of the mean label of a batch against a full shuffle; 100 shards of 1,000 samples with one label each."""
    order, size = SourceOrder("x", 100_000, 0, 96, 32, 4096), 16
    positions, drawn = [(0, 0, 0)] * 96, []
    for g in range(4 * 100_000 // size):
        for _ in range(size):
            index, positions[g % 96] = order.take(g % 96, *positions[g % 96])
            drawn.append(index // 1000)
    buffered: list[int] = []
    for epoch in range(4):
        rng = random.Random(epoch)
        shards = rng.sample(range(100), 100)
        source = (shard for shard in shards for _ in range(1000))
        buffered += webdataset.filters._shuffle(source, bufsize=5000, initial=5000, rng=rng)
    return {
        "ours_micro_batch_of_16": batch_variance(np.array(drawn, float), 16),
        "ours_batch_of_256": batch_variance(np.array(drawn, float), 256),
        "webdataset_buffer_5000_of_16": batch_variance(np.array(buffered, float), 16),
        "webdataset_buffer_5000_of_256": batch_variance(np.array(buffered, float), 256),
    }


def useful(lengths: Callable[[], int], max_tokens: int, buffer: int, packs: int = 1500) -> float:
    waiting: list[Planned] = []
    used = 0
    for _ in range(packs):
        while len(waiting) < buffer:
            waiting.append(Planned(num_tokens=lengths(), num_crops=1))
        chosen = {*fill(waiting, max_tokens, None)}
        used += sum(waiting[place].num_tokens for place in chosen)
        waiting = [sample for place, sample in enumerate(waiting) if place not in chosen]
    return used / packs / max_tokens


def padded(lengths: Callable[[], int], size: int = 8, batches: int = 1500) -> float:
    found = [[lengths() for _ in range(size)] for _ in range(batches)]
    return sum(map(sum, found)) / sum(size * max(batch) for batch in found)


def packing(home: Path) -> ROWS:
    """Useful share of the tokens: packs of 4,096 and 8,192, beside random batches of 8 padded to their longest."""
    rng = np.random.default_rng(0)

    def llava() -> int:
        text = int(np.clip(rng.lognormal(5.3, 0.8), 20, 1900))
        return text + (0 if rng.random() < 0.1 else V1.num_tokens)

    def demo() -> int:
        return int(297 + rng.integers(150, 400))

    return {
        f"{name}_{kind}": value
        for name, lengths in (("llava_like", llava), ("demo_like", demo))
        for kind, value in (
            ("packed_4096_buffer_16", useful(lengths, 4096, 16)),
            ("packed_8192_buffer_32", useful(lengths, 8192, 32)),
            ("padded_batches_of_8", padded(lengths)),
        )
    }


def memory(home: Path) -> ROWS:
    """Resident megabytes after each of 10 epochs of 2,000 samples."""
    folder = write(home / "memory", 2000, 100, photograph(96, 96))
    loader = module(folder, epoch={"samples": 2000}).train_dataloader()
    found = []
    for _ in range(10):
        for _ in loader:
            pass
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append(pages * resource.getpagesize() / 2**20)
    return {
        "after_epoch_1_mb": found[0], "after_epoch_3_mb": found[2], "after_epoch_10_mb": found[9],
        "growth_epochs_3_to_10_mb": found[9] - found[2],
    }  # fmt: skip


def startup(home: Path) -> ROWS:
    """Seconds from a path to the first micro-batch, with 10,000 shards that are indexed."""
    folder = write(home / "startup", 20_000, 2, photograph(16, 16))
    start = time.perf_counter()
    data = module(folder)
    opened = len(data.mix)
    seconds = time.perf_counter() - start
    next(iter(data.train_dataloader()))
    return {"samples": float(opened), "open_seconds": seconds, "first_batch_seconds": time.perf_counter() - start}


PARTS = {part.__name__: part for part in (reading, resume, shuffle, packing, memory, startup)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part to measure (default: all)")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, ROWS] = {}
    for name in args.only or PARTS:
        home = Path(tempfile.mkdtemp(prefix="loader-"))
        try:
            found[name] = PARTS[name](home)
        finally:
            shutil.rmtree(home)
    table = Table("part", "measure", "value")
    for name, rows in found.items():
        for measure, value in rows.items():
            table.add_row(name, measure, f"{value:,.3f}")
    Console(width=100).print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
