"""Adapters beside few bits: they alone train, a run goes on exactly, and what is loaded is what was trained."""

import json

import lightning.pytorch as pl
import pytest
import torch
from training_job import PROJECTOR, largest_difference, micro_batches, run

from dragonfly_lit.models.quantized import quantize_layers, round_layers
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.adapters import read_adapters, take_adapters, write_adapters
from dragonfly_lit.training.checkpoint.format import read_info
from dragonfly_lit.training.checkpoint.locate import load_weights, load_with_adapters, step_folder
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.stages import Group, Lora

peft = pytest.importorskip("peft")
LORA = Lora(rank=4, alpha=8, target=("q_proj", "down_proj"))
GROUPS = (Group(match="language.*lora_*", lr=1e-2), *PROJECTOR)


def quantized(kind):
    model = tiny_model()
    quantize_layers(model.language, kind)
    return model


def job(kind, **more):
    return {
        "groups": GROUPS,
        "steps": 4,
        "num_batches": 8,
        "stage": {"lora": LORA},
        "model_factory": lambda: quantized(kind),
        "skeleton_factory": None,
        **more,
    }


class Keeps(pl.Callback):
    def on_fit_end(self, trainer, pl_module):
        self.model = pl_module.model.eval()


@pytest.fixture(scope="module", params=["int8", "nf4"])
def trained(request, tmp_path_factory):
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
    folder, keeps = tmp_path_factory.mktemp("few_bits"), Keeps()
    found = run(folder, callbacks=(keeps,), every=2, **job(request.param))
    return request.param, folder, found, keeps.model


def losses_of(model):
    (batch,) = micro_batches(1)
    with torch.no_grad():
        return TrainingNetwork(model.eval())(batch).token_losses


def test_adapters_and_projector_alone_train_and_the_loss_falls(trained):
    kind, folder, _, model = trained
    before = dict(quantized(kind).named_buffers())
    after = {name.replace(".base_layer.", "."): buffer for name, buffer in model.named_buffers()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(".lora_" in n or n.startswith("projector.") for n, p in model.named_parameters() if p.requires_grad)
    assert losses_of(model).sum() < losses_of(quantized(kind)).sum()
    info = read_info(step_folder(folder, 4))
    assert (info.quantize, info.trainable_only) == (kind, True)


def test_a_run_goes_on_exactly(trained, tmp_path):
    kind, folder, found, _ = trained
    resumed = run(tmp_path, resume=step_folder(folder, 2), **job(kind))
    assert largest_difference(found, resumed) == 0.0
    assert resumed["losses"] == found["losses"][2:]


def test_a_run_does_not_go_on_from_other_weights(trained, tmp_path):
    kind, folder, _, _ = trained
    floats = job(kind) | {"model_factory": tiny_model}
    with pytest.raises(ValueError, match=rf"is of model\.quantize={kind}, this run of model\.quantize=null"):
        run(tmp_path, resume=step_folder(folder, 2), **floats)


def test_floats_are_what_was_trained_merged(trained):
    _, folder, _, model = trained
    merged = tiny_model()
    load_weights(merged, folder)
    torch.testing.assert_close(losses_of(merged), losses_of(model), rtol=0, atol=1e-5)


def test_few_bits_keep_the_adapters_beside_them(trained):
    kind, folder, _, model = trained
    beside = quantized(kind)
    load_with_adapters(beside, folder, LORA)
    torch.testing.assert_close(losses_of(beside), losses_of(model), rtol=0, atol=0)
    with pytest.raises(ValueError, match=rf"not merged into weights of . bits \(model\.quantize={kind}\)"):
        load_weights(quantized(kind), folder)


def test_few_bits_start_from_a_float_run(trained, tmp_path):
    kind, *_ = trained
    run(tmp_path / "one", groups=PROJECTOR, steps=1, num_batches=2, stage_name="1")
    start, floats = quantized(kind), tiny_model()
    load_weights(start, tmp_path / "one")
    load_weights(floats, tmp_path / "one")
    round_layers(floats.language, kind)
    torch.testing.assert_close(losses_of(start), losses_of(floats), rtol=0, atol=1e-5)


def test_a_group_that_names_few_bits_is_refused(trained, tmp_path):
    kind, *_ = trained
    wrong = job(kind) | {"groups": (Group(match="language.*", lr=1e-2),)}
    with pytest.raises(ValueError, match=rf"match=language\.\* would train .*model\.quantize={kind} holds in . bits"):
        run(tmp_path, **wrong)


def test_adapters_by_themselves_are_read_by_peft_alone(trained, tmp_path):
    kind, folder, _, model = trained
    apart = tiny_model()
    load_with_adapters(apart, folder, LORA)
    write_adapters(take_adapters(apart), tmp_path / "adapters", LORA, "base")
    apart.save_pretrained(tmp_path / "base")
    base = type(apart).from_pretrained(tmp_path / "base")
    by_peft = peft.PeftModel.from_pretrained(base, tmp_path / "adapters").eval()
    ids = torch.arange(34).view(2, 17)
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        # The same products in another order than beside few bits.
        torch.testing.assert_close(by_peft(input_ids=ids).logits, wanted, rtol=0, atol=1e-5)
        ours = type(apart).from_pretrained(tmp_path / "base")
        read_adapters(ours, tmp_path / "adapters")
        torch.testing.assert_close(ours(input_ids=ids).logits, wanted, rtol=0, atol=1e-5)
        few = type(apart).from_exported(tmp_path / "base", quantize=kind)
        read_adapters(few, tmp_path / "adapters")
        torch.testing.assert_close(few(input_ids=ids).logits, wanted, rtol=0, atol=1e-5)
    assert not any(".lora_" in name for name, _ in ours.named_parameters())
    assert any(".lora_" in name for name, _ in few.named_parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "only LORA is read here"),
        ({"use_dora": True}, "use_dora=True, which is not read here"),
        ({"megatron_config": {"a": 1}}, "megatron_config=.*not read here"),
        ({"r": 3}, "has shape"),
        ({"target_modules": r"language\..*\.v_proj"}, "is of another model"),
        ({"r": "many"}, "cannot be read"),
    ],
)
def test_adapters_of_another_kind_are_one_line(change, said, tmp_path):
    model = tiny_model()
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["q_proj"]), model.language)
    (tmp_path / "a").mkdir()
    write_adapters(take_adapters(model), tmp_path / "a", Lora(rank=4, alpha=8, target=("q_proj",)), "base")
    file = tmp_path / "a/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=said) as caught:
        read_adapters(tiny_model(), tmp_path / "a")
    assert "\n" not in str(caught.value)
