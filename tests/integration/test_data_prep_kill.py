"""A pack that is killed goes on where it was, and ends with the same bytes as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from limits import patient
from PIL import Image

SHARDS = 30


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    home = tmp_path_factory.mktemp("inputs")
    (home / "images").mkdir()
    rows = []
    for number in range(SHARDS * 4):
        pixels = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home / "images" / f"{number}.png")
        rows.append(
            {
                "id": str(number),
                "image": f"{number}.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat?"},
                    {"from": "gpt", "value": f"Noise {number}."},
                ],
            }
        )
    (home / "images" / "17.png").unlink()
    (home / "llava.json").write_text(json.dumps(rows))
    return home


def command(inputs, out):
    return [
        sys.executable,
        "-m",
        "data_prep",
        "pack",
        "--from",
        "llava",
        str(inputs / "llava.json"),
        "--images",
        str(inputs / "images"),
        "--out",
        str(out),
        "--source",
        "noise",
        "--licence",
        "CC0",
        "--shard-size",
        "4",
        "--workers",
        "2",
        "--on-error",
        "skip",
        "--max-side",
        "64",
    ]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def wait_for_marks(out, process, count):
    while process.poll() is None:
        marks = list((out / ".pack").glob("[0-9]*.json"))
        if len(marks) >= count:
            return True
        time.sleep(0.002)
    return False


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in listed] + [grand for child in listed for grand in children(int(child))]


def test_a_killed_pack_goes_on_and_ends_byte_identical(inputs, tmp_path):
    root = Path(__file__).parents[2]
    subprocess.run(command(inputs, tmp_path / "whole"), check=True, cwd=root, capture_output=True)
    out = tmp_path / "killed"
    kills = 0
    for after in (2, 15):
        process = subprocess.Popen(command(inputs, out), cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait_for_marks(out, process, after):
            time.sleep(random.Random(after).random() * 0.02)
            workers = children(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            deadline = time.monotonic() + patient(10)
            while any(map(alive, workers)) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not any(map(alive, workers)), "workers outlived their parent"
            assert not (out / "dataset.json").exists()
    subprocess.run(command(inputs, out), check=True, cwd=root, capture_output=True)
    assert kills == 2
    assert contents(out) == contents(tmp_path / "whole")
    assert len((out / "skipped.jsonl").read_text().splitlines()) == 1
