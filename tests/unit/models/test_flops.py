"""FLOPs by formula are those that torch counts, and those of the published sizes."""

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dragonfly_lit.models.flops import Trained, Work, peak_flops, step_flops, vision_flops_per_crop
from dragonfly_lit.models.tiny import tiny_config, tiny_model

STAGES = {
    "1": Trained(vision=False, projector=True, language=False),
    "2": Trained(vision=True, projector=True, language=True),
    "language": Trained(vision=False, projector=False, language=True),
}
ZOOMS = {"select": {}, "max": {"score": "max"}, "pool": {"top_k": None, "pool": 2}}


PROJECTORS = {
    "linear": None,
    "mlp": {"_target_": "dragonfly_lit.models.projector.MlpProjector", "hidden": 40},
}


@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("zoom", ZOOMS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_has_the_flops_that_torch_counts(make, stage, zoom, projector):
    model, trained = tiny_model(zoom=ZOOMS[zoom], projector=PROJECTORS[projector]).train(), STAGES[stage]
    for part in ("vision", "projector", "language"):
        getattr(model, part).requires_grad_(getattr(trained, part))
    model.train()
    make = type(make)(model)
    batch = make.batch(make.sequence(1))
    tokens = batch.input_ids.numel()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sums = model.loss_sums(**batch.model_inputs(), labels=batch.labels)
        sums.loss.backward()
    # torch multiplies what the causal mask hides as well
    work = Work(images=1, tokens=tokens, pairs=tokens**2, supervised=len(sums.rows))
    assert 0 < work.supervised < tokens / 2
    # Some releases of transformers make the rotary angles by a matrix product, which nobody counts as the model's.
    angles = sum(sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    assert sum(step_flops(model.config, work, trained, model.projector).values()) == counter.get_total_flops() - angles


V1 = tiny_config(
    vision={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
    },
    text={
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
    },
    zoom={"medium_crops": 4, "high_crops": 24, "top_k": 3},
)
V2 = tiny_config(
    vision={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
    text=V1.text_config.to_dict(),
    zoom={"medium_crops": 4, "high_crops": 36, "high_grid": "medium", "top_k": None, "pool": 4},
)


@pytest.mark.parametrize(
    ("config", "image_tokens", "crop_gflops", "stage_1_tflops", "stage_2_tflops"),
    [(V1, 867, 8.1, 41.3, 61.6), (V2, 2098, 366, 94.3, 161.3)],
)
def test_the_released_sizes_cost_what_was_derived_by_hand(
    config, image_tokens, crop_gflops, stage_1_tflops, stage_2_tflops
):
    assert config.layout.num_tokens == image_tokens
    assert vision_flops_per_crop(config) / 1e9 == pytest.approx(crop_gflops, rel=0.01)
    tokens = image_tokens + 512
    work = Work(images=1, tokens=tokens, pairs=tokens * (tokens + 1) // 2, supervised=512)
    for stage, expected in (("1", stage_1_tflops), ("2", stage_2_tflops)):
        assert sum(step_flops(config, work, STAGES[stage]).values()) / 1e12 == pytest.approx(expected, rel=0.005)


def test_adapters_need_gradients_through_the_language_model_but_none_of_its_weights():
    work = Work(images=1, tokens=1000, pairs=500_500, supervised=100)
    none = {"vision": False, "projector": False, "language": False}
    through = step_flops(V1, work, Trained(**none, adapters=True))["language backward"]
    assert through == step_flops(V1, work, Trained(**none | {"projector": True}))["language backward"]
    assert step_flops(V1, work, Trained(**none))["language backward"] == 0


def test_the_peak_is_known_by_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("Some CPU") is None


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H800", 989),
        ("NVIDIA H800 PCIe", 756),
        ("NVIDIA H20", 148),
        ("NVIDIA H20-3e", 148),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A10G", 70),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A800-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 503),
        ("Tesla V100-SXM2-32GB", 125),
        ("NVIDIA GH200 480GB", 989),
        ("AMD Instinct MI300X", 1307),
    ],
)
def test_names_that_hold_one_another_are_told_apart(name, tflops):
    assert peak_flops(name) == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A1000",
        "NVIDIA RTX 4000 Ada Generation",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA B300 SXM6 AC",
        "Tesla T4",
    ],
)
def test_a_gpu_that_only_sounds_like_another_has_no_peak(name):
    """Of an unknown one no share of a peak is logged; of a wrong peak it would be a wrong one."""
    assert peak_flops(name) is None
