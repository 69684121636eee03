"""What a command did not make is the same after it, whatever its name is and however the command ends."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_packing import photo

from data_prep import demo, packing
from data_prep.__main__ import main
from data_prep.job import Job
from data_prep.packing import pack
from data_prep.probes import make_probes
from dragonfly_lit.io.lock import locked

ROOT = Path(__file__).resolve().parents[3]
NAMES = (
    ".notes", ".env.local", ".git.bak", ".noise-00000.tar.1.partial", ".dataset.json.77.partial", ".x.partial", ".lock",
    "notes.txt", "noise-00000.tar.gz", "noise.tar.idx", "report.html", "a.meta.jsonl", ".pack.partial", "0.json",
    ".dragonfly-notes", ".dragonfly-pack-notes.partial.txt", "sub/.hidden.partial", "sub/dataset.json", "sub/a.tar",
    ".pack-notes/plan.json",
)  # fmt: skip


@pytest.fixture
def home(tmp_path):
    (tmp_path / "images").mkdir()
    lines = []
    for number in range(12):
        (tmp_path / "images" / f"{number}.png").write_bytes(photo(number))
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"Noise {number}."}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    return tmp_path


def job(home, **changes):
    given = {
        "form": "captions",
        "path": home / "captions.jsonl",
        "images": home / "images",
        "out": home / "out",
        "source": "noise",
        "licence": "CC0",
        "shard_size": 4,
    }
    return Job(**(given | changes))


def strangers(folder: Path) -> dict[str, str]:
    """Fill a folder with files of somebody else, and a link out of it; those that were put there."""
    already = found(folder)
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"mine: {name}")
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "kept.partial").write_text("mine")
    (folder / ".link.partial").symlink_to(elsewhere)
    (folder / "dangling.tar.idx").symlink_to(folder / "nowhere")
    return {name: what for name, what in found(folder).items() if name not in already}


def found(folder: Path) -> dict[str, str]:
    """Every file below, and where links point; times tell whether one was written anew."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else f"{path.stat().st_mtime_ns} {path.read_bytes()!r:.500}"
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def assert_kept(folder: Path, before: dict[str, str]) -> None:
    after = found(folder)
    assert {name: after.get(name) for name in before} == before
    assert (folder.parent / "elsewhere" / "kept.partial").read_text() == "mine"


def test_pack_leaves_the_files_of_others(home):
    before = strangers(home / "out")
    assert pack(job(home), workers=1)["samples"] == 12
    assert_kept(home / "out", before)
    made = set(found(home / "out")) - set(before)
    shards = {f"noise-0000{n}.tar{end}" for n in range(3) for end in ("", ".idx", ".meta.jsonl")}
    assert made == {"dataset.json", "report.json", "data_card.md", "contact_sheet.jpg", *shards}


def test_a_pack_that_failed_and_is_mended_leaves_them_too(home):
    before = strangers(home / "out")
    good = (home / "captions.jsonl").read_text()
    (home / "captions.jsonl").write_text('{"image": "gone.png", "caption": "x"}\n' + good)
    with pytest.raises(ValueError, match="missing"):
        pack(job(home), workers=1)
    (home / "captions.jsonl").write_text(good)
    pack(job(home), workers=1)
    assert_kept(home / "out", before)


@pytest.mark.parametrize(
    "name",
    [
        "dataset.json",
        "report.json",
        "skipped.jsonl",
        "duplicates.jsonl",
        "data_card.md",
        "contact_sheet.jpg",
        "mine.tar",
    ],
)
@pytest.mark.parametrize("kind", ["file", "link"])
def test_pack_begins_nowhere_where_it_would_write_over_something(home, name, kind):
    (home / "out").mkdir()
    (home / "precious").write_text("mine")
    if kind == "file":
        (home / "out" / name).write_text("mine")
    else:
        (home / "out" / name).symlink_to(home / "precious")
    before = found(home / "out")
    with pytest.raises(ValueError, match=r"already holds"):
        pack(job(home), workers=1)
    assert found(home / "out") == before
    assert (home / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", "plan.json", "sub/plan.json", ".x"])
def test_a_state_folder_of_somebody_else_is_not_used(home, name):
    path = home / "out" / ".pack" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = found(home / "out")
    with pytest.raises(ValueError, match="Take"):
        pack(job(home), workers=1)
    assert found(home / "out") == before


def test_a_state_folder_that_leads_elsewhere_is_not_followed(home):
    (home / "out").mkdir()
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "00000.json").write_text("mine")
    (home / "out" / ".pack").symlink_to(home / "elsewhere")
    with pytest.raises(ValueError, match=r"\.pack in it is not from this command"):
        pack(job(home), workers=1)
    assert (home / "elsewhere" / "00000.json").read_text() == "mine"


def test_a_shard_that_somebody_put_there_meanwhile_is_not_replaced(home, monkeypatch):
    (home / "images" / "5.png").rename(home / "away.png")
    with pytest.raises(ValueError, match="row 6"):
        pack(job(home), workers=1)
    (home / "away.png").rename(home / "images" / "5.png")
    (home / "out" / "noise-00001.tar").write_text("mine")
    with pytest.raises(ValueError, match=r"noise-00001\.tar is not from this run"):
        pack(job(home), workers=1)
    assert (home / "out" / "noise-00001.tar").read_text() == "mine"


def test_a_run_that_was_killed_as_it_ended_is_a_finished_one(home, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(packing, "write_card", lambda job, report: None)
        patched.setattr(packing, "clear", lambda out: (out / ".pack/plan.json").is_file())
        first = pack(job(home), workers=1)
    assert (home / "out" / ".pack").is_dir()
    assert pack(job(home), workers=1) == first
    assert not (home / "out" / ".pack").exists()
    assert (home / "out" / "data_card.md").read_text().startswith("# noise")


def command(home, out="out"):
    argv = [sys.executable, "-m", "data_prep", "pack", "--from", "captions", str(home / "captions.jsonl"), "--out"]
    argv += [str(home / out), "--images", str(home / "images"), "--source", "noise", "--licence", "CC0"]
    return [*argv, "--shard-size", "4", "--workers", "1"]


def test_a_killed_pack_leaves_them_and_goes_on(home):
    before = strangers(home / "out")
    process = subprocess.Popen(command(home), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (home / "out" / ".pack" / "plan.json").exists():
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert_kept(home / "out", before)
    pack(job(home), workers=1)
    assert_kept(home / "out", before)
    assert not (home / "out" / ".pack").exists()


def test_a_limit_of_file_sizes_is_one_line_and_the_run_goes_on(home):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))

    made = subprocess.run(command(home), cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    assert made.returncode == 1
    assert len(made.stderr.strip().splitlines()) == 1
    assert "ulimit -f" in made.stderr
    assert str(home / "out") in made.stderr
    pack(job(home), workers=1)
    pack(job(home, out=home / "fresh"), workers=1)
    names = sorted(path.name for path in (home / "fresh").iterdir())
    assert names == sorted(path.name for path in (home / "out").iterdir())
    assert all((home / "fresh" / n).read_bytes() == (home / "out" / n).read_bytes() for n in names)


def test_a_second_pack_of_the_folder_is_told_who_is_there(home, monkeypatch, capsys):
    monkeypatch.setattr("dragonfly_lit.io.lock.PATIENCE_SECONDS", 0.0)
    with locked(home / "out", way_out=""):
        argv = [*command(home)[3:]]
        assert main(argv) == 1
    told = capsys.readouterr().err.strip()
    assert "is in use by process" in told
    assert "choose another --out" in told
    assert "\n" not in told


@pytest.mark.parametrize("make", ["demo", "probes"])
def test_made_data_replaces_nothing(tmp_path, make, monkeypatch):
    folder = tmp_path / ("easy_vqa" if make == "demo" else "probes")
    before = strangers(folder / "train")
    with pytest.raises(ValueError, match=r"train holds something that this command did not make"):
        demo.make_demo(tmp_path) if make == "demo" else make_probes(tmp_path, num_train=2, num_test=2)
    assert_kept(folder / "train", before)


def test_index_lint_and_stats_leave_the_files_of_others(home, capsys):
    pack(job(home), workers=1)
    before = strangers(home / "out")
    (home / "out" / "sub" / "a.tar").unlink()
    before.pop("sub/a.tar")
    for name in ("index", "lint", "stats"):
        assert main([name, str(home / "out")]) == 0, capsys.readouterr().err
        assert_kept(home / "out", before)
    (home / "out" / "dataset.json").write_text('{"name": "mine"}')
    assert main(["index", str(home / "out")]) == 1
    assert "is not a list of shards, and would be lost" in capsys.readouterr().err
    assert (home / "out" / "dataset.json").read_text() == '{"name": "mine"}'
