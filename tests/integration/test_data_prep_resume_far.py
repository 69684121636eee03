"""A training on files behind a web server, killed with SIGKILL and resumed under other counts: the whole command."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from data_prep.__main__ import main


def picture(number: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (12, 12), (number * 40 % 256, number * 7 % 256, 90)).save(out, "PNG")
    return out.getvalue()


def write_shards(folder: Path) -> str:
    """Plain shards, as img2dataset writes them: nothing says where their samples begin."""
    for shard in range(3):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for number in range(shard * 16, shard * 16 + 16):
                text = f"a square, number {number}, " + "and so on " * (number % 5)
                for name, content in ((f"{number:05d}.png", picture(number)), (f"{number:05d}.txt", text.encode())):
                    header = tarfile.TarInfo(name)
                    header.size = len(content)
                    tar.addfile(header, BytesIO(content))
    return "{0000..0002}.tar"


def write_tables(folder: Path) -> str:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for file in range(2):
        rows = [
            {
                "images": [{"bytes": picture(number), "path": None}],
                "texts": [{"user": f"Which is it, {number}?", "assistant": "so " * (1 + number % 7)}],
            }
            for number in range(file * 24, file * 24 + 24)
        ]
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"train-0000{file}-of-00002.parquet", row_group_size=9)
    return "train-{00000..00001}-of-00002.parquet"


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[str, Path]]:
    """The address of Python's own web server, which knows no ranges, and its folder."""
    (folder := tmp_path / "www").mkdir()
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        port = re.search(r"port (\d+)", server.stdout.readline())
        assert port
        yield f"http://127.0.0.1:{port[1]}", folder
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize(("write", "mode"), [(write_shards, "packed"), (write_tables, "padded")])
def test_resume_check_of_files_behind_a_web_server_prints_identical(served, tmp_path, capsys, write, mode):
    url, folder = served
    names = write(folder)
    lies_there = {*folder.iterdir()}
    argv = ["resume-check", "--ranks", "1", "--workers", "2", "--then-ranks", "2", "--then-workers", "1"]
    argv += ["--steps", "6", "--every", "2", "data=mine", f'data.path="{url}/{names}"', f"data.batch.mode={mode}"]
    argv += [f"data.cache_dir={tmp_path / 'cache'}", "model.max_tokens=1024", "callbacks.answers=null"]
    assert main(argv) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "identical"
    assert {*folder.iterdir()} == lies_there, "nothing was written where the files lie"
