"""This engine against the straightforward one, in one run and on the same samples: tokens a second and peak memory.

The straightforward engine trains as the released code does: one padded row a sample, the whole tower with all its
hidden states, sample by sample, gradients through every crop, logits of every row in float32.

    python benchmarks/train_step.py                                # CPU size, both stages
    python benchmarks/train_step.py --size v1 --stages 1 --device cuda --precision bf16
"""

from __future__ import annotations

import argparse
import random
import time

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from torch import Tensor

    from dragonfly_lit.models.attention import choose_attention
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
    from dragonfly_lit.models.flops import Trained, Work, peak_flops, step_flops
    from dragonfly_lit.models.fusion import fill_slots, slots_of_images
    from dragonfly_lit.models.tiny import tiny_config, tiny_tokenizer
    from dragonfly_lit.models.zoom import pool_patches
    from dragonfly_lit.processing.batches import collate, pack
    from dragonfly_lit.processing.sequences import SequenceBuilder
    from dragonfly_lit.spec.records import Batch, Sample, Turn
    from dragonfly_lit.training.network import TrainingNetwork
    from dragonfly_lit.training.optimizer import build_optimizer, no_decay_names
    from dragonfly_lit.training.precision import autocast, cast_weights
    from dragonfly_lit.training.stages import Group, Stage, freeze
    from dragonfly_lit.training.survival import device_memory
    from dragonfly_lit.training.telemetry import count
    from dragonfly_lit.training.update import prepare_update

LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
LLAMA_1B = LLAMA_8B | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64}
CLIP_B32 = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32,
}  # fmt: skip
CLIP_L14 = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14,
}  # fmt: skip
SELECT = {"medium_crops": 4, "high_crops": 24, "top_k": 3, "regions": "raster"}
POOL = {"medium_crops": 4, "high_crops": 36, "high_grid": "medium", "top_k": None, "pool": 4}
SIZES = {
    "cpu": {
        "vision": {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
        "text": {
            "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 8192,
        },
        "zoom": {"medium_crops": 4, "high_crops": 24, "top_k": 3},
    },
    "v1": {"vision": CLIP_B32, "text": LLAMA_8B, "zoom": SELECT},
    "v2": {"vision": CLIP_L14, "text": LLAMA_8B, "zoom": POOL},
    "1b": {"vision": CLIP_B32, "text": LLAMA_1B, "zoom": SELECT},
}  # fmt: skip
STAGES = {"1": ("projector.*", 1e-4), "2": ("*", 1e-5)}
"""What trains, and its learning rate."""


def stage_of(name: str, steps: int) -> Stage:
    """A stage of a measurement."""
    match, lr = STAGES[name]
    return Stage(name=name, steps=steps, groups=(Group(match=match, lr=lr),))


def samples(number: int, longest: int) -> list[Sample]:
    """Images with questions whose answers have ragged lengths, up to `longest` bytes."""
    draw = random.Random(0)
    image = Image.effect_noise((300, 200), 50).convert("RGB")
    turns = [
        (
            Turn(role="user", text="what?", num_images=1),
            Turn(role="assistant", text="a" * int(longest * draw.random() ** 2 + 8)),
        )
        for _ in range(number)
    ]
    return [Sample(key=str(i), source="noise", turns=t, images=(image,)) for i, t in enumerate(turns)]


def straightforward(model: DragonflyForConditionalGeneration, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum of token losses and number of tokens, the released way."""
    config, layout, zoom = model.config, model.layout, model.layout.zoom
    assert batch.pixel_values is not None
    assert batch.image_grids is not None
    first_high = int(zoom.low) + zoom.num_medium
    images = []
    for pixels, grids in zip(batch.pixel_values, batch.image_grids, strict=True):
        states = model.vision.tower(
            pixel_values=model.vision.normalise(pixels), output_hidden_states=True
        ).hidden_states
        features = states[-2][None]
        low, medium, high = features.tensor_split((int(zoom.low), first_high), dim=1)
        medium, high = pool_patches(medium, layout), pool_patches(high, layout)
        if zoom.selects:
            high = high[:, model.zoom(medium, high, model.projector, grids[None], None).selected[0]]
        images.append(model.projector(torch.cat([part.flatten(1, 2) for part in (low, medium, high)], dim=1)))
    embeddings = model.get_input_embeddings()(batch.input_ids)
    slots = slots_of_images(batch.input_ids, config.image_token_id, len(images), layout.num_slots)
    embeddings = fill_slots(embeddings, slots, torch.cat(images))
    mask = (batch.sample_ids >= 0).long()
    output = model.language(inputs_embeds=embeddings, attention_mask=mask, use_cache=False, output_hidden_states=True)
    logits, targets = output.logits[:, :-1].float().flatten(0, 1), batch.labels[:, 1:].flatten()
    return F.cross_entropy(logits, targets, reduction="sum"), (targets >= 0).sum()


def measure(engine: str, stage_name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds a step, tokens a second, peak memory and MFU of one engine in one stage."""
    device = torch.device(arguments.device)
    ours = engine == "this"
    torch.manual_seed(0)
    config = tiny_config(**SIZES[arguments.size], feature_layer=-2 if ours else -1)
    torch.set_default_dtype(
        torch.bfloat16 if arguments.precision == "bf16" and device.type == "cuda" else torch.float32
    )
    model = DragonflyForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    half = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    attention = choose_attention("packed_varlen", device, half)[0] if ours else "sdpa"
    model.language.set_attn_implementation(attention)
    stage = stage_of(stage_name, steps=1000)
    param_groups = freeze(model, stage)
    half_weights = ours and arguments.precision == "bf16"
    cast_weights(model, arguments.precision, frozen=torch.bfloat16 if half_weights else None)
    model.to(device).train()
    network, no_decay = TrainingNetwork(model, arguments.precision), no_decay_names(model)
    masters = network.hold_half() if half_weights else None
    if masters is not None:
        param_groups = [group.over(masters.weights) for group in param_groups]
    optimizer = build_optimizer(param_groups, no_decay, stage)
    if masters is not None:
        masters.follow(optimizer)
    tokenizer = tiny_tokenizer()
    builder = SequenceBuilder(tokenizer=tokenizer, layout=model.layout, max_tokens=8192)
    sequences = [builder.build(sample) for sample in samples(arguments.samples, arguments.longest)]
    rows = [pack(sequences)] if ours else sequences
    batch = collate(rows, pad_id=tokenizer.pad_token_id).to(device)
    seconds, work = [], None
    for step in range(arguments.steps + 2):
        _wait(device)
        start = time.perf_counter()
        if masters is not None:
            masters.begin()
        if ours:
            sums = network(batch)
            loss, weight = sums.loss, sums.weight
            work = work or count(batch, sums).tolist()
        else:
            with autocast(arguments.precision, device.type):
                loss, weight = straightforward(model, batch)
        loss.backward()
        if masters is not None:
            masters.collect()
        prepare_update(optimizer, stage, step, loss=loss.detach(), weight=weight.float(), divided_by=1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    best = sorted(seconds[2:])[len(seconds[2:]) // 2]
    found = {"s a step": best, "tokens/s": sum(map(len, sequences)) / best, "GB": device_memory(device)}
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if work and peak:
        _, images, tokens, _, pairs, supervised = work
        trained = Trained(vision=stage_name == "2", projector=True, language=stage_name == "2")
        flops = step_flops(config, Work(images=images, tokens=tokens, pairs=pairs, supervised=supervised), trained)
        found["MFU"] = sum(flops.values()) / best / peak
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument(
        "--engines", nargs="+", choices=("straightforward", "this"), default=["straightforward", "this"]
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--samples", type=int, default=8, help="samples a step")
    parser.add_argument("--longest", type=int, default=400, help="bytes of the longest answer")
    parser.add_argument("--steps", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {arguments.device}: torch finds no CUDA device here. Use --device cpu.")
    for stage in arguments.stages:
        base = None
        for engine in arguments.engines:
            found = measure(engine, stage, arguments)
            base = base or found["tokens/s"]
            text = "  ".join(f"{name} {value:,.3f}" for name, value in found.items())
            print(f"stage {stage}  {engine:<16} {text}  speed {found['tokens/s'] / base:.2f}x", flush=True)


if __name__ == "__main__":
    main()
