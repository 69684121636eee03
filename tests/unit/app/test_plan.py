"""`plan` says what fits and what binds, from the configuration alone; a run that cannot fit is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from limits import patient

from dragonfly_lit.__main__ import main
from dragonfly_lit.app.build import compose
from dragonfly_lit.app.plan import GPUS
from dragonfly_lit.app.planning import Machine, plan
from dragonfly_lit.app.room import DoesNotFitError, check_fits, look_for_room
from dragonfly_lit.app.sizes import known_folder
from dragonfly_lit.models.flops import PEAK_FLOPS, peak_flops
from dragonfly_lit.training.sharding import ActivationCheckpointing

V1 = ["stage=1", "model=dragonfly_v1", "data=general_stage1", "trainer=gpu8"]
V2 = ["stage=2", "model=dragonfly_v2", "data=general_stage2", "trainer=gpu8"]
H100 = Machine(gpu="H100", memory=80e9, peak=989e12, mfu=0.5, node=450e9, network=50e9)


@pytest.fixture(autouse=True)
def nothing_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def planned(*overrides):
    return plan(compose(list(overrides)), H100)


@pytest.mark.parametrize("model", ["dragonfly_v1", "dragonfly_v2", "tiny"])
@pytest.mark.parametrize("stage", ["1", "2", "biomed"])
def test_every_model_and_stage_has_a_plan(model, stage):
    found = planned(f"model={model}", f"stage={stage}", "trainer=gpu8", "strategy=fsdp")
    assert found.memory.total > 0
    assert found.computing > 0


def test_every_part_that_the_configuration_names_comes_with_its_sizes():
    for vision in ("clip_b32", "clip_l14_336", "siglip_so400m"):
        config = compose([f"vision={vision}"])
        assert (Path(known_folder(config["vision"]["path"])) / "config.json").is_file()
    for language in ("llama3_8b", "llama31_8b", "smollm2"):
        config = compose([f"language={language}"])
        assert (Path(known_folder(config["language"]["path"])) / "config.json").is_file()
    assert known_folder("weights/mine") == "weights/mine"


def test_sizes_are_those_of_the_published_models():
    everything, trained = planned(*V1).parameters
    assert everything == pytest.approx(8.03e9 + 0.08e9 + 0.003e9, rel=0.01)
    assert trained == 768 * 4096 + 4096
    assert planned("model=tiny", "language=smollm2").parameters[0] == pytest.approx(0.1345e9, rel=0.01)


def test_what_binds_is_memory_network_or_compute():
    alone = planned(*V2, "strategy=ddp")
    assert alone.binds(H100) == "memory"
    full = [*V2, "strategy=fsdp", "strategy.activation_checkpointing=full"]
    assert planned(*full).binds(H100) == "compute"
    assert planned(*full, "trainer.num_nodes=4").binds(H100) == "network"
    assert planned(*full, "trainer.num_nodes=4", "data.batch.max_tokens=32768").binds(H100) == "compute"


def test_every_way_to_checkpoint_holds_less_than_the_one_before():
    modes = get_args(ActivationCheckpointing)
    assert modes == ("none", "selective", "full", "offload")
    many = "trainer.num_nodes=8"  # so that no part is highest where backward ends, which knows no activations
    found = [planned(*V2, "strategy=fsdp", many, f"strategy.activation_checkpointing={mode}").memory for mode in modes]
    held = [memory.total for memory in found]
    assert held == sorted(held, reverse=True)
    assert len(set(held)) == 4
    part = "strategy.activation_checkpointing={vision: none, language: offload}"
    assert held[-1] < planned(*V2, "strategy=fsdp", many, part).memory.total < held[0]


def test_compiled_blocks_are_those_of_a_gpu():
    """As `auto` compiles them; those that are written out keep more."""
    held = {
        (trainer, how): planned(*V1[:3], trainer, f"trainer.compile={how}", "trainer.precision=bf16").memory.language
        for trainer in ("trainer=gpu", "trainer=cpu")
        for how in ("auto", "blocks", "off")
    }
    few, many = held["trainer=gpu", "blocks"], held["trainer=gpu", "off"]
    assert few < 0.8 * many
    assert list(held.values()) == [few, few, many, many, few, many]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_gradients_in_bfloat16_are_half_of_what_is_sent(strategy):
    usual, half = (planned(*V1, f"strategy={strategy}", f"trainer.gradients={g}") for g in ("float32", "bfloat16"))
    name = "all-reduce of gradients" if strategy == "ddp" else "reduce-scatter of gradients"
    assert half.sent[f"{name}, within a node"] == usual.sent[f"{name}, within a node"] / 2


def test_moments_of_8_bits_and_of_momentum_are_smaller():
    usual, half, one = (planned(*V1, f"optimizer={name}") for name in ("adamw", "adamw_8bit", "sgd"))
    trained = usual.parameters[1]
    assert usual.memory.optimizer - one.memory.optimizer == 4 * trained
    assert usual.memory.optimizer - half.memory.optimizer == pytest.approx((8 - 2 * (1 + 4 / 256)) * trained)


def test_traffic_is_that_of_a_ring():
    ddp, fsdp = planned(*V1), planned(*V1, "strategy=fsdp", "trainer.num_nodes=2")
    ((name, sent),) = ddp.sent.items()
    assert name == "all-reduce of gradients, within a node"
    assert sent == pytest.approx(2 * 7 / 8 * 4 * ddp.parameters[1])
    assert set(fsdp.sent) == {"all-gather of weights, between nodes", "reduce-scatter of gradients, between nodes"}
    assert planned("trainer=gpu", "model=dragonfly_v1", "data=general_stage1").sent == {}


def test_replicas_keep_the_gathers_within_a_node(monkeypatch):
    config = compose([*V2, "strategy=fsdp", "trainer.num_nodes=4", "data.batch.max_tokens=8192"])
    config["strategy"]["replicate"] = 4
    found = plan(config, H100)
    assert found.shards == 8
    assert "all-gather of weights, within a node" in found.sent
    assert "all-reduce of shards, between nodes" in found.sent
    assert found.sending < planned(*V2, "strategy=fsdp", "trainer.num_nodes=4", "data.batch.max_tokens=8192").sending


def test_a_step_is_all_its_micro_batches():
    one, four = planned(*V1), planned(*V1, "stage.accumulate=4")
    assert four.flops == 4 * one.flops
    assert four.sent == one.sent


def test_adapters_train_and_the_weights_below_them_do_not():
    pytest.importorskip("peft")
    found = planned(
        *V1,
        "stage.lora={_target_: dragonfly_lit.training.stages.Lora}",
        "stage.groups.0.match=[projector.*,language.*lora_*]",
    )
    assert 10e6 < found.parameters[1] < 100e6


def test_the_command_prints_every_part(capsys):
    assert main(["plan", *V2, "strategy=fsdp", "trainer.num_nodes=4", "--mfu", "0.5"]) == 0
    text = capsys.readouterr().out
    for word in (
        "parameters",
        "TFLOP a GPU",
        "50% of the 989",
        "weights",
        "optimizer",
        "gradients",
        "activations, tower",
        "logits",
        "all-gather",
        "tokens/s",
        "samples/s",
        "binds    network; with data.batch.max_tokens=",
    ):
        assert word in text, text
    assert max(map(len, text.splitlines())) <= 100


def test_what_does_not_fit_says_what_would(capsys):
    assert main(["plan", *V2, "strategy=ddp"]) == 1
    text = capsys.readouterr().out
    advice = re.search(r"binds    memory; it fits with (strategy=fsdp[^(]*) \(", text)
    assert advice, text
    assert main(["plan", *V2, *advice[1].split()]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trainer.devices=0"], "trainer.devices=0 is not a whole number"),
        (["model=dragonfly_v1", "vision=siglip_so400m"], r"an image takes [\d,]+ tokens, .* model.max_tokens=2,048"),
        (["vision.path=nowhere"], "vision.path=nowhere does not exist"),
        (["traner.devices=1"], r"traner\.devices is not a key"),
        (["--memory", "0"], "--memory=0.0 must be above 0"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, capsys):
    assert main(["plan", *arguments]) == 1
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert error.count("\n") == 1


def test_every_gpu_has_a_peak():
    assert all(peak_flops(name) for name in GPUS)
    assert set(PEAK_FLOPS) >= set(GPUS)


def test_a_run_that_cannot_fit_is_refused_with_the_arithmetic():
    with pytest.raises(
        ValueError, match=r"weights, .* GB weights \+ .* GB optimizer.* = .* do not fit 80\.0 GB of H100"
    ):
        check_fits(compose([*V2, "strategy=ddp"]), "H100", 80e9)
    told = check_fits(compose([*V2, "strategy=fsdp", "data.batch.max_tokens=16384"]), "H100", 80e9)
    assert told is not None
    assert "may not fit" in told
    assert "\n" not in told
    assert check_fits(compose(V1), "H100", 80e9) is None


def test_no_run_fails_of_a_plan_that_cannot_be_made(monkeypatch):
    properties = type("Properties", (), {"name": "H100", "total_memory": 80 * 10**9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    config = compose([*V2, "strategy=ddp"])
    with pytest.raises(DoesNotFitError):
        look_for_room(config)
    config["language"]["path"] = "weights/some.gguf"
    assert look_for_room(config) is None


def test_a_gpu_that_cannot_compile_is_planned_as_it_will_run(monkeypatch):
    properties = type("Properties", (), {"name": "H100", "total_memory": 50 * 10**9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    config, told = compose([*V1, "trainer.devices=1"]), {}
    for compiles in (False, True):
        monkeypatch.setattr("dragonfly_lit.training.sharding.can_compile", lambda _, found=compiles: found)
        told[compiles] = look_for_room(config)
    assert "may not fit 50.0 GB of H100" in str(told[False])
    assert told[True] is None


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from dragonfly_lit.__main__ import main\ntry: main(['plan', '--help'])\nexcept SystemExit: pass\n"
        "import json; print(json.dumps([n for n in ('torch', 'transformers', 'hydra') if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patient(120))
    assert json.loads(done.stdout.splitlines()[-1]) == []
