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
from statistics import median

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import numpy as np
    import pyarrow
    import torch
    import webdataset
    from PIL import Image
    from pyarrow import parquet
    from rich.console import Console
    from rich.table import Table

    from data_prep.demo import make_demo
    from dragonfly_lit.app.data import build_data, configure
    from dragonfly_lit.data.datamodule import DragonflyDataModule
    from dragonfly_lit.data.dataset import open_dataset
    from dragonfly_lit.data.exclusion import Keyed
    from dragonfly_lit.data.index import index_folder
    from dragonfly_lit.data.order import SourceOrder
    from dragonfly_lit.data.packing import Planned, fill, useful_share
    from dragonfly_lit.data.quarantine import Quarantine
    from dragonfly_lit.data.stream import Stream
    from dragonfly_lit.data.tables import Tables
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
    fields = {"batch": {"size": 16}, "num_workers": 0, "epoch": {"steps": 10**6}, **overrides}
    fields.setdefault("builder", SequenceBuilder(tokenizer=tiny_tokenizer(), layout=V1, max_tokens=2048))
    return DragonflyDataModule(train={"sources": {"x": {"path": str(folder)}}}, pad_id=PAD, **fields)


def by_turns(ours: Iterable, theirs: Iterable, count: int, *, per_item: int = 1, rounds: int = 9) -> ROWS:
    """Median samples a second of two endless pipelines measured in turns, and how the ratios of the rounds spread."""
    pipelines = {"ours": iter(ours), "webdataset": iter(theirs)}
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn in range(-1, rounds):  # the first round only warms up
        for name in sorted(pipelines, reverse=bool(turn % 2)):
            start = time.perf_counter()
            for _ in range(count // per_item):
                next(pipelines[name])
            if turn >= 0:
                rates[name].append(count / (time.perf_counter() - start))
    ratios = sorted(a / b for a, b in zip(rates["ours"], rates["webdataset"], strict=True))
    return {
        "ours": median(rates["ours"]),
        "webdataset": median(rates["webdataset"]),
        "ratio": median(ratios),
        "ratio_least": ratios[0],
        "ratio_most": ratios[-1],
    }


def theirs(folder: Path) -> Iterable:
    urls = sorted(map(str, folder.glob("*.tar")))
    return webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1000).repeat()  # type: ignore[attr-defined]


def ours(folder: Path) -> Iterator:
    shards = open_dataset(folder)
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

    raw = by_turns(ours(folder), theirs(folder), 4000)
    decoded = by_turns(module(folder).train_dataloader(), batches(), 160, per_item=16)
    return {
        f"{what}_{name}": value for what, found in (("raw", raw), ("decoded", decoded)) for name, value in found.items()
    }


def tables(home: Path) -> ROWS:
    """Records a second, shuffled, not decoded: Parquet in row groups of 100 beside the same samples in shards."""
    image, count = photograph(320, 240), 2000
    shards = open_dataset(write(home / "shards", count, 500, image))
    rows = [
        {"image": {"bytes": image, "path": None}, "texts": [{"user": "What is it?", "assistant": f"It is {number}."}]}
        for number in range(count)
    ]
    file = home / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=100)

    def records(reader: Keyed) -> Iterator[Record]:
        order, position = SourceOrder("x", count, 0, 1, 32, 4096), (0, 0, 0)
        while True:
            index, position = order.take(0, *position)
            yield reader.record(index, 0)

    table = Tables(str(file), [file], cache_dir=home / "cache")
    start = time.perf_counter()
    for index in range(0, count, 100):
        table.record(index)
    first = time.perf_counter() - start
    found = by_turns(records(table), records(shards), count)
    names = {"ours": "parquet", "webdataset": "tar"}
    return {names.get(name, name): value for name, value in found.items()} | {"first_use_seconds": first}


def resume(home: Path) -> ROWS:
    """Seconds from a path and a checkpoint's state to the next sample, at 90% of 100,000 samples."""
    folder = write(home / "resume", 100_000, 1000, photograph(32, 32))
    data = module(folder)
    orders = [SourceOrder("x", 100_000, 0, 96, 32, 4096)]
    rounds = -(-90_000 // (96 * 16))
    for number in range(96):
        stream = Stream(
            number, mix=data.mix, orders=orders, shape=data.shape, builder=data.builder, quarantine=Quarantine()
        )
        for _ in range(rounds * 16):
            stream.draw()
        data.position.streams[number] = stream.state()
    data.position.num_consumed = 96 * rounds
    state = data.state_dict()

    def first_of(size: int) -> tuple[float, float]:
        start = time.perf_counter()
        again = module(folder, builder=data.builder, batch={"size": size})
        again.load_state_dict({**state, "fingerprint": again.fingerprint})  # of which the size is a part
        batches = iter(again.train_dataloader())
        next(batches)
        resumed = time.perf_counter()
        next(batches)
        return resumed - start, time.perf_counter() - resumed

    found: ROWS = {}
    for size in (1, 16):
        seconds = [first_of(size) for _ in range(5)]
        found[f"resume_seconds_size_{size}"] = median(first for first, _ in seconds)
        found[f"next_micro_batch_seconds_size_{size}"] = median(then for _, then in seconds)
    start = time.perf_counter()
    samples = iter(theirs(folder))
    for _ in range(96 * rounds * 16):
        next(samples)
    found["fast_forward_seconds"] = time.perf_counter() - start
    return found


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
    """Useful share of the tokens: packs beside batches padded to their longest, on two distributions of lengths."""
    rng = np.random.default_rng(0)

    def llava() -> int:
        text = int(np.clip(rng.lognormal(5.3, 0.8), 20, 1900))
        return text + (0 if rng.random() < 0.1 else V1.num_tokens)

    found = {
        "llava_like_packed_4096_buffer_16": useful(llava, 4096, 16),
        "llava_like_packed_8192_buffer_32": useful(llava, 8192, 32),
        "llava_like_padded_batches_of_8": padded(llava),
    }
    make_demo(home)
    for mode, size in (("packed", None), ("grouped", 8), ("padded", 8)):
        sized = [] if mode == "packed" else [f"data.batch.size={size}"]
        config, builder = configure([f"data_root={home}", "data=demo", f"data.batch.mode={mode}", *sized])
        data = build_data(config, builder, num_workers=0, quarantine=None)
        max_tokens = data.shape.max_tokens if mode == "packed" else None
        shares = [useful_share(batch, max_tokens) for batch in data.train_dataloader()]
        found[f"demo_{mode}"] = float(np.mean(shares))
    return found


def memory(home: Path) -> ROWS:
    """Resident megabytes after each of 10 epochs of 2,000 samples."""
    folder = write(home / "memory", 2000, 100, photograph(96, 96))
    small = Layout(image_size=32, patch_size=8, class_token=False, zoom=Zoom(medium=False, high=False, top_k=None))
    builder = SequenceBuilder(tokenizer=tiny_tokenizer(), layout=small, max_tokens=2048)
    loader = module(folder, builder=builder, epoch={"samples": 2000}).train_dataloader()
    found = []
    for _ in range(10):
        for _ in loader:
            pass
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append(pages * resource.getpagesize() / 2**20)
    return {
        "after_epoch_1_mb": found[0],
        "after_epoch_3_mb": found[2],
        "after_epoch_10_mb": found[9],
        "growth_epochs_3_to_10_mb": found[9] - found[2],
    }


def startup(home: Path) -> ROWS:
    """Seconds from a path to the first micro-batch, with 10,000 shards that are indexed."""
    folder = write(home / "startup", 20_000, 2, photograph(16, 16))
    start = time.perf_counter()
    data = module(folder)
    opened = len(data.mix)
    seconds = time.perf_counter() - start
    next(iter(data.train_dataloader()))
    return {"samples": float(opened), "open_seconds": seconds, "first_batch_seconds": time.perf_counter() - start}


PARTS = {part.__name__: part for part in (reading, tables, resume, shuffle, packing, memory, startup)}


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
