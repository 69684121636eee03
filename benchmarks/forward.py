"""Forward and full step of a Dragonfly against the straightforward way, on the same batch in the same run.

The straightforward way is what the released code does: sample by sample, every layer of the tower, every hidden
state kept, every crop projected and propagated back, every row through the head. Both give the same loss.

    python benchmarks/forward.py                     # a 20 M model at v1's counts, on the CPU
    python benchmarks/forward.py --version v2 --size base --batch 4 --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import torch
    import torch.nn.functional as F
    from rich.console import Console
    from rich.table import Table
    from torch import Tensor

    from dragonfly_lit.models.config import DragonflyConfig
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
    from dragonfly_lit.models.zoom import pool_patches
    from dragonfly_lit.spec.released import ZOOMS
    from dragonfly_lit.spec.tokens import IGNORE

TOWERS = {
    "v1": {"image_size": 224, "patch_size": 32},
    "v2": {"image_size": 336, "patch_size": 14},
}
SIZES = {
    # tower width, tower layers, language width, language layers, words
    "small": (192, 6, 256, 4, 32768),
    "base": (768, 12, 2048, 16, 128256),
}
PARTS = ("look", "step")
WAYS = ("straightforward", "ours")


def build(args: argparse.Namespace) -> DragonflyForConditionalGeneration:
    """A random model whose tower has every layer, so that both ways can run it."""
    tower_width, tower_layers, width, layers, words = SIZES[args.size]
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": tower_width,
        "intermediate_size": 4 * tower_width,
        "num_hidden_layers": tower_layers,
        "num_attention_heads": tower_width // 64,
        **TOWERS[args.version],
    }
    text = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "vocab_size": words,
        "pad_token_id": None,
    }
    fields = {"zoom": vars(ZOOMS[args.version]), "image_token_id": words - 1, "newline_token_id": words - 2}
    torch.manual_seed(0)
    whole = DragonflyConfig(vision_config=vision, text_config=text, feature_layer=-1, **fields)
    model = DragonflyForConditionalGeneration(whole)
    if args.way == "ours":
        truncated = DragonflyConfig(vision_config=vision, text_config=text, feature_layer=-2, **fields)
        weights, model = model.state_dict(), DragonflyForConditionalGeneration(truncated)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    model = model.to(args.device, getattr(torch, args.dtype)).train()
    if args.stage == 1:
        model.requires_grad_(False)
        model.projector.requires_grad_(True)
        model.train()
    return model


def make_batch(model: DragonflyForConditionalGeneration, args: argparse.Namespace) -> dict[str, Tensor]:
    """Random crops and words; a quarter of the words are supervised, as answers are."""
    generator = torch.Generator().manual_seed(1)
    layout, config = model.layout, model.config
    image = torch.tensor(layout.image_ids(config.image_token_id, config.newline_token_id))
    words = torch.randint(0, 1000, (args.batch, args.words), generator=generator)
    ids = torch.cat([image.expand(args.batch, -1), words], dim=1)
    labels = ids.clone()
    labels[:, : -args.words // 4] = IGNORE
    side = layout.image_size
    pixels = torch.randint(
        0, 256, (args.batch, layout.zoom.num_crops, 3, side, side), dtype=torch.uint8, generator=generator
    )
    batch = {"input_ids": ids, "labels": labels, "pixel_values": pixels}
    return {name: tensor.to(args.device) for name, tensor in batch.items()}


def look_straightforwardly(model: DragonflyForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Image tokens sample by sample: all layers, all states, every crop projected before anything is dropped."""
    zoom, layout = model.layout.zoom, model.layout
    images = []
    for crops in pixels:
        normalised = model.vision.normalise(crops)
        states = model.vision.tower(normalised.to(model.dtype), output_hidden_states=True).hidden_states
        tokens = model.projector(states[-2])
        low, medium, high = tokens.split([1, zoom.num_medium, zoom.num_high])
        medium, high = pool_patches(medium, layout), pool_patches(high, layout)
        if zoom.selects:
            scores = high.mean(1) @ medium.mean(1).T
            per = zoom.num_high // zoom.num_medium
            best = [
                scores[r * per : (r + 1) * per, r].topk(zoom.top_k or per).indices + r * per
                for r in range(zoom.num_medium)
            ]
            high = high[torch.cat(best).sort().values]
        images.append(torch.cat([part.flatten(0, 1) for part in (low, medium, high)]))
    return torch.stack(images)


def step_straightforwardly(model: DragonflyForConditionalGeneration, batch: dict[str, Tensor]) -> Tensor:
    """The loss with every row's logits at once."""
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    tokens = look_straightforwardly(model, batch["pixel_values"]).to(embeddings.dtype)
    slots = (batch["input_ids"] == model.config.image_token_id)[:, :, None]
    logits = model.language(inputs_embeds=embeddings.masked_scatter(slots, tokens), use_cache=False).logits.float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE)


def measure_one(args: argparse.Namespace) -> dict[str, float]:
    """Median seconds, peak bytes above the model, and the loss, in this process."""
    model = build(args)
    batch = make_batch(model, args)
    trains = [p for p in model.parameters() if p.requires_grad]

    def look() -> float:
        pixels = batch["pixel_values"]
        tokens = model.encode_images(pixels)[0] if args.way == "ours" else look_straightforwardly(model, pixels)
        if args.stage == 2:
            tokens.float().square().mean().backward()
        return float(tokens.detach().float().mean())

    def step() -> float:
        loss = model.loss_sums(**batch).mean if args.way == "ours" else step_straightforwardly(model, batch)
        loss.backward()
        return float(loss.detach())

    return time_it(look if args.part == "look" else step, trains, args)


def time_it(run: Callable[[], float], trains: Sequence[Tensor], args: argparse.Namespace) -> dict[str, float]:
    on_gpu = args.device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = _resident("VmRSS")
    seconds, value = [], 0.0
    for _ in range(args.repeats + 1):
        for weight in trains:
            weight.grad = None
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        value = run()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    after = torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM")
    return {"seconds": sorted(seconds[1:])[args.repeats // 2], "bytes": after - before, "value": value}


def _resident(field: str) -> int:
    """Bytes that Linux notes for this process: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--version", choices=tuple(TOWERS), default="v1", help="whose crops and zoom (default: %(default)s)"
    )
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help="of the model (default: %(default)s)")
    parser.add_argument("--stage", type=int, choices=(1, 2), default=2, help="1: projector only; 2: all (default: 2)")
    parser.add_argument("--batch", type=int, default=2, help="samples (default: %(default)s)")
    parser.add_argument("--words", type=int, default=256, help="text tokens a sample (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; the median counts (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch finds no CUDA device here. Use --device cpu.")
    if args.part:
        print(json.dumps(measure_one(args)))
        return
    # A process each, because a peak is one of the process.
    numbers = {
        part: {way: json.loads(_again("--part", part, "--way", way).splitlines()[-1]) for way in WAYS} for part in PARTS
    }
    report(numbers, args)


def _again(*options: str) -> str:
    command = [sys.executable, *sys.argv, *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def report(numbers: dict[str, dict[str, dict[str, float]]], args: argparse.Namespace) -> None:
    table = Table(
        title=f"Dragonfly {args.version}, {args.size}, stage {args.stage}, {args.batch} samples, {args.device}"
    )
    for column in ("", *WAYS, "ratio"):
        table.add_column(column, justify="right" if column else "left")
    names = {"look": "tower + zoom + projector", "step": "full step"}
    for part, ways in numbers.items():
        plain, ours = (ways[way] for way in WAYS)
        ways["ratio"] = {key: plain[key] / max(ours[key], 1e-9) for key in ("seconds", "bytes")}
        for key, unit, scale in (("seconds", "s", 1), ("bytes", "MB", 1e-6)):
            values = [f"{way[key] * scale:.2f} {unit}" for way in (plain, ours)]
            table.add_row(
                f"{names[part]}, {'time' if key == 'seconds' else 'peak memory'}", *values, f"{ways['ratio'][key]:.2f}"
            )
    table.add_row("loss", *(f"{numbers['step'][way]['value']:.5f}" for way in WAYS), "")
    Console().print(table)
    if args.json:
        options = {key: value for key, value in vars(args).items() if key not in ("json", "part", "way")}
        args.json.write_text(json.dumps({"options": options, "torch": torch.__version__, "numbers": numbers}, indent=2))


if __name__ == "__main__":
    main()
