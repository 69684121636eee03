"""Export: a run's weights in folders that others can load."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from fake_hub import fake_hub
from limits import patient

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.export import main
from dragonfly_lit.app.factories import build_components, model_factory
from dragonfly_lit.app.load import load_for_inference
from dragonfly_lit.app.push import push
from dragonfly_lit.app.runs import held_run, open_run
from dragonfly_lit.evaluation.runner import weights_fingerprint
from dragonfly_lit.models.backbones import builtin_folder
from dragonfly_lit.training.checkpoint.format import CheckpointInfo
from dragonfly_lit.training.checkpoint.locate import network_tensors, step_folder
from dragonfly_lit.training.checkpoint.writer import CheckpointWriter
from dragonfly_lit.training.lora import add_adapters, is_adapter
from dragonfly_lit.training.stages import Lora


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose weights are those of no other model."""
    config = compose(["model=tiny", "zoom.high_crops=24", "zoom.top_k=3", "zoom.regions=raster"])  # as released
    root = tmp_path_factory.mktemp("runs")
    with held_run(root, "trained") as held:
        folder = open_run(root, "trained", config, resume=False, held=held)
    model = model_factory(config, build_components(config))()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    info = CheckpointInfo(stage="1", model="tiny", step=1, steps=1)
    CheckpointWriter().save(step_folder(folder, 1), network_tensors(model), {}, info, False)
    return folder, {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_exported_folder_is_the_trained_model_and_its_processor(run, tmp_path):
    folder, weights = run
    main([str(folder), str(tmp_path / "model")])
    model, processor = load_for_inference(tmp_path / "model")
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert processor.tokenizer.get_vocab() == load_for_inference(folder)[1].tokenizer.get_vocab()


def test_the_released_layout_comes_back_as_the_same_weights(run, tmp_path):
    folder, weights = run
    main([str(folder), str(tmp_path / "model"), "--layout", "released"])
    model, _ = load_for_inference(
        tmp_path / "model", dtype=torch.float32, version="v1", vision=str(builtin_folder("vision"))
    )
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())


def test_weights_are_written_in_the_type_that_is_asked_for(run, tmp_path):
    main([str(run[0]), str(tmp_path / "model"), "--dtype", "bfloat16"])
    model, _ = load_for_inference(tmp_path / "model")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.language.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_folder_with_files_is_not_written_into(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        main([str(run[0]), str(tmp_path)])


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A run that has trained adapters."""
    pytest.importorskip("peft")
    lora = "{_target_: dragonfly_lit.training.stages.Lora, rank: 4, alpha: 8, target: [q_proj, down_proj]}"
    config = compose(["model=tiny", f"stage.lora={lora}"])
    root = tmp_path_factory.mktemp("runs")
    with held_run(root, "adapted") as held:
        folder = open_run(root, "adapted", config, resume=False, held=held)
    model = model_factory(config, build_components(config))()
    add_adapters(model.language, Lora(rank=4, alpha=8, target=("q_proj", "down_proj")))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
    info = CheckpointInfo(stage="1", model="tiny", step=1, steps=1, lora_scale=2.0)
    CheckpointWriter().save(step_folder(folder, 1), network_tensors(model), {}, info, False)
    return folder


def test_adapters_by_themselves_are_the_merged_model_again(adapters, tmp_path):
    main([str(adapters), str(tmp_path / "whole")])
    main([str(adapters), str(tmp_path / "apart"), "--layout", "peft"])
    base = tmp_path / "apart" / "base"
    main([str(adapters), str(tmp_path / "beside"), "--layout", "peft", "--base", str(base)])
    assert not (tmp_path / "beside" / "base").exists()
    whole = dict(load_for_inference(tmp_path / "whole")[0].named_parameters())
    for folder in ("apart", "beside"):
        again = dict(load_for_inference(tmp_path / folder)[0].named_parameters())
        assert again.keys() == whole.keys()
        assert all(torch.equal(whole[name], weight) for name, weight in again.items())


def test_a_base_of_other_weights_is_refused_before_anything_is_written(adapters, tmp_path):
    main([str(adapters), str(tmp_path / "merged")])
    command = [str(adapters), str(tmp_path / "apart"), "--layout", "peft"]
    with pytest.raises(ValueError, match=r"--base .*merged: language\..* is not what these adapters were trained with"):
        main([*command, "--base", str(tmp_path / "merged")])
    main(command)


def test_a_run_without_adapters_has_none_by_themselves(run, tmp_path):
    with pytest.raises(ValueError, match=r"--layout peft: .* has no adapters of stage.lora"):
        main([str(run[0]), str(tmp_path / "apart"), "--layout", "peft"])
    with pytest.raises(ValueError, match=r"--base .* is of --layout peft"):
        main([str(run[0]), str(tmp_path / "apart"), "--base", str(tmp_path)])


# The model card


@pytest.fixture
def described(run, tmp_path):
    """The run once more, its data and scores at hand: of the second source nothing is known."""
    folder = tmp_path / "runs" / "described"
    shutil.copytree(run[0], folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    shards = [{"name": f"colours-{n}.tar", "num_samples": 30, "sha256": str(n) * 64} for n in range(2)]
    (tmp_path / "colours").mkdir()
    dataset = {"schema_version": 1, "licence": "CC0 | mine", "num_samples": 60, "shards": shards}
    (tmp_path / "colours" / "dataset.json").write_text(json.dumps(dataset))
    config["data"]["train"]["sources"] = {"colours": {"path": str(tmp_path / "colours"), "weight": 3.0}}
    config["vision"]["path"] = config["language"]["path"] = "builtin"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    weights = weights_fingerprint(load_for_inference(folder)[0])["weights"]
    entry = {
        "benchmark": "easy_vqa",
        "split": "test",
        "num_questions": 40,
        "limited": True,
        "headline": "accuracy",
        "scale": 100.0,
        "prompt": {"set": "released"},
        "scores": {"accuracy": 0.75},
        "intervals": {"accuracy": [0.625, 0.8333]},
    }
    for name, digest in (("easy_vqa", weights), ("pope", "0" * 32)):
        (folder / "evaluation" / name).mkdir(parents=True)
        results = {
            "model": {"weights": digest},
            "bootstrap": {"level": 0.95},
            "benchmarks": {name: entry | {"benchmark": name}},
        }
        (folder / "evaluation" / name / "results.json").write_text(json.dumps(results))
    return folder


def test_the_card_says_what_the_run_knows_and_no_path(described, tmp_path):
    main([str(described), str(tmp_path / "my-model")])
    card = (tmp_path / "my-model" / "README.md").read_text()
    digest = hashlib.sha256(f"{'0' * 64}\n{'1' * 64}".encode()).hexdigest()
    for line in (
        "# my-model",
        'model = AutoModelForImageTextToText.from_pretrained("my-model")',
        "| 1 | 1 of 1 | projector.\\* at 0.008, zoom.\\* at 0.008 | 0 | fp32 |",
        f"| 1 | colours | 100.0% | 60 | CC0 \\| mine | {digest[:12]} |",
        "| easy_vqa | test | accuracy | 40, limited | released | 75.00 | 62.50 to 83.33 |  |",
        "| pope | test | accuracy | 40, limited | released | 75.00 | 62.50 to 83.33 | other weights |",
    ):
        assert line in card.splitlines(), line
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-text-to-text"
    lock = json.loads((tmp_path / "my-model" / "mix_lock.json").read_text())
    (source,) = lock["stages"][0]["sources"]
    assert (source["share"], source["sha256"], len(source["shards"])) == (1.0, digest, 2)
    texts = [file for file in (tmp_path / "my-model").iterdir() if file.suffix != ".safetensors"]
    told = [file.name for file in texts if str(tmp_path) in file.read_text() or str(Path.cwd()) in file.read_text()]
    assert told == []
    assert "is_local" not in (tmp_path / "my-model" / "tokenizer_config.json").read_text()


def test_the_card_of_a_stage_names_the_stages_before_it(described, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no easy-VQA lies
    second = tmp_path / "runs" / "second"
    shutil.copytree(run[0], second)
    config = yaml.safe_load((second / "config.yaml").read_text())
    config["init_from"], config["stage"]["name"] = str(described), "2"
    (second / "config.yaml").write_text(yaml.safe_dump(config))
    main([str(second), str(tmp_path / "model"), "--layout", "released"])
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| 2 | easy_vqa | not known | not known | not known | not known |" in card
    assert "| 1 | colours | 100.0% | 60 |" in card
    assert 'from_released("model", version="v1")' in card
    assert "No score is known" in card


def test_the_way_to_load_a_model_is_python_whatever_its_folder_is_called(run, tmp_path):
    name = 'a "b" \\ c'
    main([str(run[0]), str(tmp_path / name)])
    block = (tmp_path / name / "README.md").read_text().split("```")[1].removeprefix("python")
    assert name in [node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)]


def test_a_model_folder_without_a_run_says_so(run, tmp_path):
    main([str(run[0]), str(tmp_path / "a")])
    main([str(tmp_path / "a"), str(tmp_path / "b")])
    assert "its training is not known here" in (tmp_path / "b" / "README.md").read_text()
    assert not (tmp_path / "b" / "mix_lock.json").exists()


def test_damaged_results_are_named(described, tmp_path):
    file = described / "evaluation" / "pope" / "results.json"
    for damage in ("{", '{"model": {}}'):
        file.write_text(damage)
        with pytest.raises(ValueError, match=r"pope/results\.json") as error:
            main([str(described), str(tmp_path / "model")])
        assert "\n" not in str(error.value)
        assert not (tmp_path / "model").exists()


# To a hub


def test_a_pushed_model_is_the_exported_one(run, tmp_path):
    with fake_hub() as (url, hub):
        command = [sys.executable, "-m", "dragonfly_lit", "export", str(run[0]), str(tmp_path / "model")]
        ours = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [*command, "--push", "me/model"],
            env=os.environ | ours,
            capture_output=True,
            text=True,
            timeout=patient(300),
        )
    assert done.returncode == 0, done.stderr
    assert f"{url}/me/model" in done.stdout
    assert hub["files"] == {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    assert 'from_pretrained("me/model")' in hub["files"]["README.md"].decode()
    (created,) = hub["created"]
    assert created.get("private", created.get("visibility")) in (True, "private")
    assert (len(hub["commits"]), hub["tokens"]) == (1, {"Bearer hf_secret"})


def test_a_hub_that_refuses_is_one_line_and_the_folder_stays(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with fake_hub(refuses="You have no rights here") as (url, hub):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", url)
        with pytest.raises(ValueError, match=r"^--push=me/model failed: .* is whole; push it again with") as error:
            push(tmp_path, "me/model", public=False)
    assert "\n" not in str(error.value)
    assert "hf_secret" not in str(error.value)
    assert hub["files"] == {}


def test_what_cannot_be_pushed_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("dragonfly_lit.app.push.get_token", lambda: None)
    for options, said in (
        (["--push", "me/a/b"], r"--push=me/a/b is not the name of a repository .*Write OWNER/NAME"),
        (["--push", "me/model"], r"there is no token of the hub.*HF_TOKEN"),
        (["--public"], r"Give --push OWNER/NAME"),
    ):
        with pytest.raises(ValueError, match=said):
            main([str(run[0]), str(tmp_path / "model"), *options])
    assert not (tmp_path / "model").exists()
