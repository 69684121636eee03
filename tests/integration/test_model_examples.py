"""A tower, a zoom rule and a projector of one's own, from a copy of `examples/`: trained, kept, loaded, asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from programs import run_python
from users_folder import copy_examples, put_on_path

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.load import load_for_inference
from dragonfly_lit.app.train import fit, scoring_arguments
from dragonfly_lit.processing.prompts import question_text
from dragonfly_lit.training.checkpoint.locate import find_resume

pytest.importorskip("easy_vqa")
ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "vision=two_layers": ("vision", "TwoLayers"),
    "zoom=spread": ("zoom", "Spread"),
    "projector=gated": ("projector", "GatedProjector"),
    "projector=mlp": ("projector", "MlpProjector"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder."""
    copied = copy_examples(tmp_path_factory.mktemp("user"))
    Image.new("RGB", (64, 48), "green").save(copied / "green.png")
    return copied


def overrides(folder: Path, choice: str) -> list[str]:
    return [
        f"--config-dir={folder / 'conf'}",
        choice,
        "stage=1",
        "stage.steps=2",
        "model.max_tokens=1024",
        "data.num_workers=0",
        "callbacks.answers=null",
        "callbacks.progress=false",
        "trainer.limit_val_batches=1",
        f"name={choice.replace('=', '_')}",
        f"runs_root={folder / 'runs'}",
    ]


@pytest.mark.parametrize("choice", PARTS)
def test_a_part_of_ones_own_trains_and_answers(folder, monkeypatch, choice):
    put_on_path(folder, monkeypatch)
    fit(compose(overrides(folder, choice)))
    trained = folder / "runs" / choice.replace("=", "_")
    assert find_resume(trained) is not None
    model, processor = load_for_inference(trained, trust=["my_parts"])
    part, name = PARTS[choice]
    assert type(getattr(model, part)).__name__ == name
    inputs = processor(text=[question_text("What is it?")], images=[Image.open(folder / "green.png")])
    with torch.inference_mode():
        written = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert written.shape[1] > inputs["input_ids"].shape[1]


def test_what_a_run_says_next_names_the_modules_that_it_needs(folder, monkeypatch):
    put_on_path(folder, monkeypatch)
    own = compose(overrides(folder, "zoom=spread"))
    assert scoring_arguments(own, Path("runs/a")) == ["checkpoint=runs/a", "'trust=[my_parts]'"]
    assert scoring_arguments(compose([]), Path("runs/a")) == ["checkpoint=runs/a"]


def test_a_run_with_a_part_of_ones_own_is_asked_and_exported_only_by_who_trusts_it(folder):
    """In processes of their own: what is imported here would be believed."""
    arguments = [f"{a}" for a in overrides(folder, "projector=gated")] + ["name=asked"]
    status, output = run_python([str(ROOT / "train.py"), *arguments], folder)
    assert status == 0, output
    tool = ("-m", "dragonfly_lit")
    asked = ("ask", "What is it?", "--image", "green.png", "--device", "cpu", "--max-new-tokens", "2", "--model")
    evaluated = (
        str(ROOT / "evaluate.py"),
        "checkpoint=runs/asked",
        "benchmark.limit=1",
        f"data_root={folder / 'data'}",
    )
    for command, key in (
        ((*tool, *asked, "runs/asked"), "runs/asked/config.yaml: projector: my_parts.projector.GatedProjector"),
        ((*tool, "export", "runs/asked", "out"), "--trust my_parts"),
        (evaluated, "trust=[my_parts]"),
    ):
        status, output = run_python([*command], folder)
        assert status == 1
        assert key in output
        assert output.count("\n") == 1
    trust = ("--trust", "my_parts")
    assert run_python([*tool, *asked, "runs/asked", *trust], folder)[0] == 0
    assert run_python([*tool, "export", "runs/asked", "out", *trust], folder)[0] == 0
    _, output = run_python([*tool, *asked, "out"], folder)
    assert "out/config.json: projector: my_parts.projector.GatedProjector" in output
    assert run_python([*tool, *asked, "out", *trust], folder)[0] == 0
    _, output = run_python([*tool, "export", "runs/asked", "released", "--layout", "released", *trust], folder)
    assert "does not know projector=my_parts.projector.GatedProjector" in output


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("projector._target_=my_parts.projector.Gate", "projector: my_parts.projector.Gate was not found"),
        ("zoom.selector._target_=no_such_module.Rule", "zoom.selector: no_such_module.Rule was not found"),
        (
            "vision.tower._target_=my_parts.projector.GatedProjector",
            "vision.tower: my_parts.projector.GatedProjector is",
        ),
        ("+projector.hiden=3", "GatedProjector cannot be built from hidden=64, hiden=3: "),
        ("model.released=somewhere", "projector=my_parts.projector.GatedProjector has none there"),
    ],
)
def test_a_part_that_cannot_be_used_is_one_line_with_its_key(folder, monkeypatch, override, said):
    put_on_path(folder, monkeypatch)
    (folder / "somewhere").mkdir(exist_ok=True)
    shutil.copytree(ROOT / "src/dragonfly_lit/models/tiny_weights/tokenizer", folder / "somewhere", dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r".") as error:
        fit(compose([*overrides(folder, "projector=gated"), override]))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
