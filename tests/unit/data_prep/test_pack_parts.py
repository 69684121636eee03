"""Several machines share one pack: what they make together is, byte for byte, what a single one makes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from test_packing import captions, job

from data_prep import duplicates, packing
from data_prep.__main__ import main
from data_prep.dividing import pack_parts
from data_prep.duplicates import find_duplicates
from data_prep.packing import pack
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.index import read_rows
from dragonfly_lit.io.lock import locked
from dragonfly_lit.spec.table import divide, table_rows

__all__ = ["captions"]


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def parts(given, machines, seed=0, **more):
    """Each part packed by one machine after another, in any order; what the last returns."""
    order = list(range(1, machines + 1))
    Random(seed).shuffle(order)
    *_, last = (pack_parts(replace(given, deal=(number, machines)), workers=1, **more) for number in order)
    return last


@pytest.mark.parametrize("machines", [1, 2, 3, 5, 9])
def test_together_they_make_what_a_single_machine_makes(captions, machines):
    whole = pack(job(captions, "one", shard_size=3), workers=1)
    assert parts(job(captions, "shared", shard_size=3), machines, seed=machines) == {"": whole}
    assert tree(captions / "shared") == tree(captions / "one")


def test_bad_rows_and_chunks_without_a_good_one_are_those_of_a_single_machine(captions):
    lines = (captions / "captions.jsonl").read_text().split("\n")
    for number in (0, 1, 2, 11):
        lines[number] = json.dumps({"image": "gone.png", "caption": "?"})
    (captions / "captions.jsonl").write_text("\n".join(lines))
    changes = {"shard_size": 3, "on_error": "skip"}
    pack(job(captions, "one", **changes), workers=1)
    parts(job(captions, "shared", **changes), 2)
    assert tree(captions / "shared") == tree(captions / "one")
    assert (captions / "shared" / "skipped.jsonl").read_text().count("\n") == 4


@pytest.fixture
def table(captions):
    """80 questions of 20 patients."""
    rows = [
        {"image": f"{n % 25}.png", "question": f"Which, {n}?", "answer": str(n), "patient": n * 7 % 20}
        for n in range(80)
    ]
    (captions / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return captions


@pytest.mark.parametrize("machines", [2, 3])
def test_patients_stay_in_their_part(table, machines):
    given = job(table, "one", form="table", path=table / "t.jsonl", shard_size=4, split_by=None)
    whole = pack_parts(given, workers=1)
    assert parts(replace(given, out=table / "shared"), machines) == whole
    assert tree(table / "shared") == tree(table / "one")
    division = divide(table_rows(table / "t.jsonl"))
    for part in ("train", "validation", "test"):
        shards = open_dataset(table / "shared" / part)
        patients = {division.parts[str(int(shards[n].turns[1].text) * 7 % 20)] for n in range(len(shards))}
        assert patients == {part}


def test_whoever_joins_which_part_the_last_one_makes_the_folder_whole(table, monkeypatch):
    """The second machine ends training before the first does, and the first ends the rest before the second."""
    given = job(table, "shared", form="table", path=table / "t.jsonl", shard_size=4, split_by=None)
    pack_parts(replace(given, out=table / "one"), workers=1)
    first, second = (replace(given, deal=(number, 2)) for number in (1, 2))
    chunk = packing.pack_chunk

    def stopped(job, number, rows):
        if job.part == "validation":
            raise KeyboardInterrupt
        return chunk(job, number, rows)

    monkeypatch.setattr(packing, "pack_chunk", stopped)
    for machine in (second, first):  # the first one joins the part to train on
        with pytest.raises(KeyboardInterrupt):
            pack_parts(machine, workers=1)
    monkeypatch.undo()
    assert None in pack_parts(first, workers=1).values()
    assert not (table / "shared" / "splits.json").exists()
    assert None not in pack_parts(second, workers=1).values()
    assert tree(table / "shared") == tree(table / "one")


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_part_that_was_killed_goes_on_and_one_that_is_done_is_left(captions, monkeypatch, after):
    pack(job(captions, "one", shard_size=3), workers=1)
    given, chunk, done = job(captions, "shared", shard_size=3, deal=(1, 2)), packing.pack_chunk, []

    def stopped(job, number, rows):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(number)
        return chunk(job, number, rows)

    monkeypatch.setattr(packing, "pack_chunk", stopped)
    with pytest.raises(KeyboardInterrupt):
        pack_parts(given, workers=1)
    assert done == [0, 2, 4, 6][:after]
    done.clear()
    monkeypatch.setattr(
        packing, "pack_chunk", lambda job, number, rows: done.append(number) or chunk(job, number, rows)
    )
    assert pack_parts(given, workers=1) == {"": None}
    assert done == [0, 2, 4, 6, 8][after:]
    assert pack_parts(given, workers=1) == {"": None}, "it is done"
    assert done == [0, 2, 4, 6, 8][after:]
    assert not (captions / "shared" / "dataset.json").exists()
    pack_parts(replace(given, deal=(2, 2)), workers=1)
    assert tree(captions / "shared") == tree(captions / "one")
    assert pack_parts(given, workers=1) == {"": pack(job(captions, "one", shard_size=3), workers=1)}, "all is done"


def test_parts_packed_in_folders_of_their_own_are_joined(captions):
    pack(job(captions, "one", shard_size=3), workers=1)
    given = job(captions, "all", shard_size=3)
    for number in (1, 2, 3):
        assert pack_parts(replace(given, out=captions / f"m{number}", deal=(number, 3)), workers=1) == {"": None}
    with pytest.raises(ValueError, match=r"--out \S+all lacks every part\. Pack it with the same command and --part"):
        pack_parts(given, workers=1, joins=True)
    for number in (1, 3):
        shutil.copytree(captions / f"m{number}", captions / "all", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"--out \S+all lacks part 2/3\. Pack it with the same command and --part"):
        pack_parts(given, workers=1, joins=True)
    shutil.copytree(captions / "m2", captions / "all", dirs_exist_ok=True)
    pack_parts(given, workers=1, joins=True)
    assert tree(captions / "all") == tree(captions / "one")
    pack_parts(given, workers=1, joins=True)


def test_who_shares_the_work_otherwise_is_refused(captions):
    given = job(captions, "shared", shard_size=3)
    pack_parts(replace(given, deal=(1, 3)), workers=1)
    before = tree(captions / "shared")
    for changed, said in (
        ({"deal": (2, 4)}, r"holds part 1/3 of another pack: it shares the work among 3\."),
        ({"deal": (2, 3), "licence": "MIT"}, r"holds part 1/3 of another pack: licence was CC0, is MIT\."),
        (
            {"deal": (1, 3), "shard_size": 4},
            r"holds a run that was stopped, .* shard_size was 3, is 4",
        ),
        ({"deal": None}, r"holds part 1/3 of a pack that several machines share\. Go on with --part or --join"),
    ):
        with pytest.raises(ValueError, match=said):
            pack_parts(replace(given, **changed), workers=1)
        assert tree(captions / "shared") == before
    (captions / "own").mkdir()
    (captions / "own" / "mine-00000.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="already holds shards that are not from this run"):
        pack_parts(replace(given, out=captions / "own", deal=(1, 3)), workers=1)


def test_two_machines_with_one_part_at_a_time_and_parts_of_other_rows_are_refused(captions):
    given = replace(job(captions, "shared", shard_size=3), deal=(1, 2))
    with locked(given.state, way_out="-"), pytest.raises(ValueError, match=r"\.pack-1-of-2 is in use by process"):
        pack_parts(given, workers=1)
    pack_parts(given, workers=1)
    done = given.state / "done.json"
    done.write_text(json.dumps(json.loads(done.read_text()) | {"rows": 24}))
    with pytest.raises(ValueError, match=r"part 1/2 has seen 24 rows and part 2/2 25\. They are not parts of one pack"):
        pack_parts(replace(given, deal=(2, 2)), workers=1)


def test_a_stopped_run_without_parts_is_not_shared(captions, monkeypatch):
    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "pack_chunk", stopped)
    with pytest.raises(KeyboardInterrupt):
        pack(job(captions), workers=1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds a run without --part that was stopped"):
        pack_parts(job(captions, deal=(1, 2)), workers=1)


def test_from_the_command_line(captions, capsys):
    command = ["pack", str(captions / "captions.jsonl"), "--from", "captions", "--images", str(captions / "images")]
    command += ["--out", str(captions / "out"), "--source", "noise", "--licence", "CC0", "--workers", "1"]
    command += ["--shard-size", "4"]
    assert main([*command, "--part", "2/2"]) == 0
    assert "part 2/2 is packed. The last of the 2 makes the data set whole." in capsys.readouterr().out
    assert main([*command, "--join"]) == 1
    assert capsys.readouterr().err.endswith("out lacks part 1/2. Pack it with the same command and --part.\n")
    assert main([*command, "--part", "1/2"]) == 0
    assert "25 samples." in capsys.readouterr().out
    assert main([*command, "--join"]) == 0
    for wrong in ("0/2", "3/2", "1", "1/2/3", "a/b", "-1/2", ""):
        with pytest.raises(SystemExit):
            main([*command, f"--part={wrong}"])
        assert "is not I/N, such as 1/8, with I from 1 to N" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"split": "train"}, "--split-shares has no effect: column split says the parts itself. Leave it out"),
        ({}, "--split-shares has no effect: nothing divides the rows. Leave it out, or name a column with --split-by"),
    ],
)
def test_shares_that_nothing_follows_are_refused(captions, more, said, capsys):
    rows = [{"image": f"{n}.png", "question": "?", "answer": "a", **more} for n in range(20)]
    (captions / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["pack", str(captions / "t.jsonl"), "--from", "table", "--images", str(captions / "images")]
    command += ["--out", str(captions / "out"), "--source", "noise", "--licence", "CC0", "--workers", "1"]
    assert main([*command, "--split-shares", "90", "5", "5"]) == 1
    assert said in capsys.readouterr().err
    assert main(command) == 0


def test_copies_are_found_as_by_comparing_each_with_all(captions):
    report = pack(job(captions, shard_size=2), workers=1)
    shards = sorted((captions / "out").glob("*.tar"))
    rows = [row for shard in shards for row in read_rows(shard)]
    first = {row.checksum: row.key for row in reversed(rows)}
    wanted = [{"key": row.key, "same_as": first[row.checksum]} for row in rows if first[row.checksum] != row.key]
    assert find_duplicates(shards) == wanted
    assert len(wanted) == report["duplicates"] == 1


def test_many_copies_are_found_whatever_is_compared_at_a_time(monkeypatch):
    """Against a dictionary of first ones; a sample without a checksum is a copy of none."""
    draws = Random(0)
    for at_a_time in (1, 3, 1000):
        shards = {
            Path(str(shard)): [
                SimpleNamespace(key=f"{shard}-{n}", checksum=draws.choice(["", "0", "7", "ffffffffffffffff", f"{n:x}"]))
                for n in range(draws.randrange(6))
            ]
            for shard in range(9)
        }
        monkeypatch.setattr(duplicates, "read_rows", shards.__getitem__)
        monkeypatch.setattr(duplicates, "AT_A_TIME", at_a_time)
        first: dict[int, str] = {}
        wanted = []
        for row in (row for rows in shards.values() for row in rows):
            if checksum := int(row.checksum or "0", 16):
                if checksum in first:
                    wanted.append({"key": row.key, "same_as": first[checksum]})
                first.setdefault(checksum, row.key)
        assert wanted
        assert find_duplicates(list(shards)) == wanted
