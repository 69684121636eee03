"""mix-plan says what a mix comes to, with what is on disk: one line says what is missing and what to do."""

import re

import pytest

from data_prep.__main__ import main
from data_prep.mix_plan import plan_table
from data_prep.shards import write_shard
from dragonfly_lit.data.index import index_folder
from dragonfly_lit.data.plan import SourcePlan
from dragonfly_lit.spec.records import Record, Turn


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Two of the six sources of data=general_stage2: 30 samples of instructions, 10 of mathematics."""
    root = tmp_path_factory.mktemp("root")
    for name, count in (("llava_instruct", 30), ("math", 10)):
        (root / name).mkdir()
        turns = (Turn(role="user", text="What?"), Turn(role="assistant", text="That."))
        records = (Record(key=f"{name}-{n}", source=name, turns=turns) for n in range(count))
        write_shard(root / name / "0.tar", records)
        index_folder(root / name)
    return root


def rows_of(text):
    """Cells of the lines of the table, by source."""
    return {cells[0]: cells[1:] for line in text.splitlines() if (cells := line.split())}


def test_the_plan_has_a_line_a_source_and_one_for_all():
    plans = [
        SourcePlan(
            name=name,
            samples=100,
            share=share,
            draws=1000 * share,
            epochs=10 * share,
            tokens_per_sample=tokens,
            images_per_sample=1.0,
        )
        for name, share, tokens in (("a", 0.7, 100.0), ("b", 0.3, 300.0))
    ]
    columns = {column.header: list(column.cells) for column in plan_table(plans).columns}
    assert columns["epochs"] == ["7", "3", ""]
    assert columns["% samples"] == ["70.0", "30.0", "100.0"]
    assert columns["% tokens"] == ["43.8", "56.2", "100.0"]


def test_sources_that_are_there_are_planned_at_their_share_of_the_whole_mix(data_root, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["mix-plan", "--samples", "1000", "data=general_stage2", f"data_root={data_root}"]) == 0
    told = capsys.readouterr()
    rows = rows_of(told.out)
    assert rows["images/llava_instruct"][:4] == ["30", "396", "13.2", "39.6"]
    assert rows["math"][:4] == ["10", "20", "2", "2.0"]
    assert rows["text_only"][:5] == ["not", "there", "100", "?", "10.0"]
    assert rows["all"][:2] == ["40", "1,000"]
    assert "in the sources that are there" in told.out
    assert f"no such folder: {data_root}/documents, {data_root}/charts" in told.err


def test_a_mix_that_is_there_as_a_whole_says_nothing_of_missing_folders(data_root, capsys):
    paths = [f"data_root={data_root}", f"data.train.sources.text_only.path={data_root / 'math'}"]
    paths += [
        f"data.train.sources.images.sources.{name}.path={data_root / 'llava_instruct'}"
        for name in ("documents", "charts", "sharegpt4v")
    ]
    assert main(["mix-plan", "data=general_stage2", *paths]) == 0
    told = capsys.readouterr()
    assert "there" not in told.out + told.err


@pytest.mark.parametrize(
    ("overrides", "way_out"),
    [
        (["data_rot=x"], "Did you mean data_root"),
        (["data=nothing"], "Use one of"),
        (["data=demo", "vision=clip_b32", "vision.path=x/mine"], "vision.path=.* does not exist. .*use model=tiny"),
        (["data=demo", "language.path=x/mine"], "language.path=.* does not exist. .* the tokenizer only"),
        (["model=dragonfly_v1", "vision=siglip_so400m"], "an image takes 12,410 tokens, .*max_tokens=2,048. Raise"),
    ],
)
def test_what_is_missing_is_one_line_with_the_way_out(overrides, way_out, tmp_path, capsys):
    assert main(["mix-plan", *overrides, f"data_root={tmp_path}", f"weights_root={tmp_path / 'weights'}"]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert re.search(way_out.format(root=tmp_path), line), line


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (
            ["model=dragonfly_v1", "data=general_stage1", "stage=1", "trainer=gpu8"],
            r"so stage.samples=556,800 are [\d,]+",
        ),
        (["model=dragonfly_v2", "data=general_stage2", "stage=2", "trainer=gpu8"], r"so stage.samples=4,062,384 are"),
        (["model=dragonfly_v1", "data=biomed", "stage=biomed", "stage.steps=10"], r"10 steps read [\d,]+ samples"),
    ],
)
def test_a_plan_of_the_real_models_needs_nothing_on_disk(overrides, steps, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["mix-plan", *overrides]) == 0
    told = capsys.readouterr()
    assert re.search(steps, told.out), told.out
    assert "until then a sample is taken to be an image and 128 tokens" in told.err
    assert "…" not in told.out
    assert list(tmp_path.iterdir()) == []


def test_packed_or_padded_the_stage_reads_the_samples_of_its_recipe(data_root, capsys):
    """What is planned is what the recipe says, within the rounding of the last step."""
    for mode in (
        ["data.batch.mode=packed"],
        ["data.batch.mode=padded", "data.batch.buffer=null"],
    ):
        mode = [*mode, "model.dtype=float32", "model.recipe.2.steps=auto", "model.recipe.2.samples=5000"]
        assert main(["mix-plan", "stage=2", "data=general_stage2", f"data_root={data_root}", *mode]) == 0
        samples = int(capsys.readouterr().out.split(" samples: ")[0].split()[-1].replace(",", ""))
        assert abs(samples - 5000) < 200
