"""Our training step against the released code's and transformers' LLaVA-NeXT's, in turns and in one run, part by part.

The released way is transformers' own CLIP and Llama called as the released code calls them: one padded row a sample,
sample by sample through the whole tower with all its hidden states, every crop projected and propagated back, logits of
every row in float32. It has our weights, and the run fails where its loss or gradient norm is not ours. LLaVA-NeXT has
our tower's and language model's sizes and about our number of image tokens; its loss is of another model.

Seconds are of processor time on one thread, which a busy machine changes least. The head is about as large a share of
the language model as that of an 8B, unless `--words` says otherwise.

    python benchmarks/step.py                              # v1, both stages, every label supervised
    python benchmarks/step.py --version v2 --stages 1 --samples 2 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import torch
    import torch.nn.functional as F
    from preprocess import picture, released_way, tokenizer
    from rich.console import Console
    from rich.table import Table
    from torch import Tensor, nn
    from train_step import STAGES, stage_of
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    from dragonfly_lit.models.attention import choose_attention
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
    from dragonfly_lit.models.fusion import fill_slots, slots_of_images
    from dragonfly_lit.models.tiny import tiny_config
    from dragonfly_lit.models.zoom import pool_patches
    from dragonfly_lit.processing.batches import collate, pack
    from dragonfly_lit.processing.sequences import SequenceBuilder
    from dragonfly_lit.spec.records import Batch, Sample, Sequence, Turn
    from dragonfly_lit.spec.released import ZOOMS
    from dragonfly_lit.training.network import TrainingNetwork
    from dragonfly_lit.training.optimizer import build_optimizer, no_decay_names
    from dragonfly_lit.training.stages import freeze
    from dragonfly_lit.training.update import prepare_update

TOWERS = {"v1": {"image_size": 224, "patch_size": 32}, "v2": {"image_size": 336, "patch_size": 14}}
PARTS = ("crops", "tower", "projector", "language model", "head and loss", "backward", "optimizer")
OURS, RELEASED, LLAVA = "ours", "released", "LLaVA-NeXT"


class Clock:
    """Processor seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[part] += time.process_time() - start

    def watch(self, module: nn.Module, part: str) -> None:
        """Counts what the module's forward takes, and takes it from `head and loss`, which is the rest of a forward."""
        started = []

        def after(*_: object) -> None:
            taken = time.process_time() - started.pop()
            self.seconds[part] += taken
            self.seconds["head and loss"] -= taken

        module.register_forward_pre_hook(lambda *_: started.append(time.process_time()))
        module.register_forward_hook(after)


def build(args: argparse.Namespace, vocabulary: int, **fields: int) -> DragonflyForConditionalGeneration:
    """A random model; two of the same seed have the same weights as far as both have them."""
    torch.manual_seed(0)
    width = args.width
    text = {
        "hidden_size": width,
        "intermediate_size": 7 * width // 2,
        "num_hidden_layers": args.layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": max(width // 128, 1),
        "head_dim": 32,
        "vocab_size": max(args.words or _words_of_an_8b(width, args.layers), vocabulary),
    }
    tower = width // 4
    vision = TOWERS[args.version] | {
        "hidden_size": tower,
        "intermediate_size": 4 * tower,
        "num_hidden_layers": 4,
        "num_attention_heads": tower // 32,
    }
    zoom = {"regions": "raster"} | vars(ZOOMS[args.version])
    return DragonflyForConditionalGeneration(tiny_config(vision=vision, text=text, zoom=zoom, **fields))


def _words_of_an_8b(width: int, layers: int) -> int:
    """Words at which the head has 7% of the language model's products, as it has in Llama-3-8B."""
    layer = width * (2 * width + 2 * max(width // 128, 1) * 32 + 3 * (7 * width // 2))
    return round(0.07 / 0.93 * layers * layer / width)


def samples(args: argparse.Namespace) -> list[Sample]:
    """A picture each, and ragged text."""
    made = []
    for i in range(args.samples):
        answer = "a" * round(args.longest * (0.4 + 0.6 * i / max(args.samples - 1, 1)))
        turns = Turn(role="user", text="What is this?", num_images=1), Turn(role="assistant", text=answer)
        made.append(Sample(key=str(i), source="made", turns=turns, images=(picture(480, 480, i),)))
    return made


class Ours:
    """The step as training takes it: all samples in one packed row."""

    def __init__(self, args: argparse.Namespace, stage: str, builder_of: Callable, fields: dict[str, int]) -> None:
        self.clock, self.stage = Clock(), stage_of(stage, steps=1000)
        self.model = build(args, 0, feature_layer=-2, **fields)
        self.model.language.set_attn_implementation(choose_attention("auto", "cpu", torch.float32)[0])
        self.builder: SequenceBuilder = builder_of(self.model.layout)
        groups = freeze(self.model, self.stage)
        self.model.train()
        self.optimizer = build_optimizer(groups, no_decay_names(self.model), self.stage)
        self.network = TrainingNetwork(self.model)
        self.clock.watch(self.model.vision, "tower")
        self.clock.watch(self.model.projector, "projector")
        self.clock.watch(self.model.get_decoder(), "language model")

    def prepare(self, made: list[Sample]) -> Batch:
        with self.clock("crops"):
            sequences = [self.builder.build(sample) for sample in made]
            return collate([pack(sequences)], pad_id=0)

    def step(self, batch: Batch) -> tuple[float, float]:
        """Loss and norm of the gradient."""
        with self.clock("head and loss"):
            sums = self.network(batch)
        with self.clock("backward"):
            sums.loss.backward()
        with self.clock("optimizer"):
            weight = sums.weight.float()
            report = prepare_update(self.optimizer, self.stage, 0, loss=sums.loss.detach(), weight=weight, divided_by=1)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return report.loss, report.grad_norm


class Released:
    """The step as the released code takes it."""

    def __init__(self, args: argparse.Namespace, stage: str, ours: Ours, tok, fields: dict[str, int]) -> None:
        self.clock, self.layout = Clock(), ours.model.layout
        self.model = build(args, 0, feature_layer=-1, **fields)
        self.model.load_state_dict(ours.model.state_dict(), strict=False)
        self.model.language.set_attn_implementation("sdpa")
        self.model.vision.tower.set_attn_implementation("sdpa")
        freeze(self.model, ours.stage)
        self.model.train()
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-5)
        self.released_crops, self.builder = released_way(self.layout, tok), ours.builder

    def prepare(self, made: list[Sample]) -> tuple[Batch, list[Tensor]]:
        with self.clock("crops"):
            for sample in made:
                self.released_crops(sample.images[0])
        # The step has our pixels, so that losses are equal; its own were only timed.
        sequences: list[Sequence] = [self.builder.build(sample) for sample in made]
        return collate(sequences, pad_id=0), [self.model.vision.normalise(s.crops[0].pixels) for s in sequences]

    def step(self, prepared: tuple[Batch, list[Tensor]]) -> tuple[float, float]:
        """Loss and norm of the gradient."""
        batch, images = prepared
        config, clock = self.model.config, self.clock
        tokens = torch.stack([self.look(pixels) for pixels in images])
        slots = slots_of_images(batch.input_ids, config.image_token_id, len(images), self.layout.num_slots)
        embeddings = fill_slots(self.model.get_input_embeddings()(batch.input_ids), slots, tokens)
        with clock("language model"):
            hidden = self.model.get_decoder()(
                inputs_embeds=embeddings, attention_mask=(batch.sample_ids >= 0).long(), use_cache=False
            ).last_hidden_state
        with clock("head and loss"):
            logits = self.model.get_output_embeddings()(hidden).float()
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
        with clock("backward"):
            loss.backward()
        with clock("optimizer"):
            norm = nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)

    def look(self, pixels: Tensor) -> Tensor:
        """Image tokens of one sample: all layers, all states, every crop projected before anything is dropped."""
        zoom = self.layout.zoom
        with self.clock("tower"):
            features = self.model.vision.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        with self.clock("projector"):
            low, medium, high = self.model.projector(features).split([1, zoom.num_medium, zoom.num_high])
            medium, high = pool_patches(medium, self.layout), pool_patches(high, self.layout)
            if zoom.selects:
                scores, per = high.mean(1) @ medium.mean(1).T, zoom.num_high // zoom.num_medium
                best = [
                    scores[r * per : (r + 1) * per, r].topk(zoom.top_k or per).indices + r * per
                    for r in range(zoom.num_medium)
                ]
                high = high[torch.cat(best).sort().values]
            return torch.cat([part.flatten(0, 1) for part in (low, medium, high)])


class Llava:
    """The step of transformers' LLaVA-NeXT of these sizes, which looks at 4x4 crops and the whole image."""

    def __init__(self, args: argparse.Namespace, stage: str, ours: Ours, tok, fields: dict[str, int]) -> None:
        self.clock, self.layout = Clock(), ours.model.layout
        ours_config, side = ours.model.config, ours.model.layout.image_size
        vision = ours_config.vision_config.to_dict()
        config = LlavaNextConfig(
            vision_config=vision,
            text_config=ours_config.text_config.to_dict(),
            image_token_id=fields["image_token_id"],
            image_grid_pinpoints=[[4 * side, 4 * side]],
            vision_feature_layer=-2,
            projector_hidden_act="gelu",
        )
        config._attn_implementation = "sdpa"
        self.model = LlavaNextForConditionalGeneration(config).train()
        if stage == "1":
            self.model.requires_grad_(False)
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_("multi_modal_projector" in name or "image_newline" in name)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-5)
        self.side, self.builder = side, ours.builder
        self.num_tokens = 17 * self.layout.patches_per_side**2 + 4 * self.layout.patches_per_side

    def prepare(self, made: list[Sample]) -> dict[str, Tensor]:
        rows, labels, images = [], [], []
        for sample in made:
            sequence = self.builder.build(sample)
            text = sequence.input_ids[self.layout.num_tokens :]
            rows.append(torch.cat([torch.full((self.num_tokens,), self.model.config.image_token_id), text]))
            labels.append(torch.cat([torch.full((self.num_tokens,), -100), text]))
            images.append(sequence.crops[0].pixels)
        pad = nn.utils.rnn.pad_sequence
        crops = torch.stack(images)[:, :17] if len(images[0]) >= 17 else torch.stack(images)
        return {
            "input_ids": pad(rows, batch_first=True),
            "labels": pad(labels, batch_first=True, padding_value=-100),
            "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
            "pixel_values": crops / 127.5 - 1,
            "image_sizes": torch.full((len(made), 2), 4 * self.side),
        }

    def step(self, batch: dict[str, Tensor]) -> tuple[float, float]:
        """Loss and norm of the gradient."""
        with self.clock("head and loss"):
            loss = self.model(**batch, use_cache=False).loss
        with self.clock("backward"):
            loss.backward()
        with self.clock("optimizer"):
            norm = nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)


def ways_of(args: argparse.Namespace, stage: str) -> dict[str, Ours | Released | Llava]:
    """Ours, and those beside it that were asked for."""
    tok = tokenizer()
    special = {name: tok.convert_tokens_to_ids(f"<|reserved_special_token_{i}|>") for i, name in enumerate("in")}
    fields = {"image_token_id": special["i"], "newline_token_id": special["n"]}

    def builder_of(layout) -> SequenceBuilder:
        return SequenceBuilder(tokenizer=tok, layout=layout, max_tokens=8192, supervise=args.supervise)

    ours = Ours(args, stage, builder_of, fields)
    ways: dict[str, Ours | Released | Llava] = {OURS: ours}
    if RELEASED in args.ways:
        ways[RELEASED] = Released(args, stage, ours, tok, fields)
    if LLAVA in args.ways:
        ways[LLAVA] = Llava(args, stage, ours, tok, fields)
    return ways


def measure(args: argparse.Namespace, stage: str) -> dict[str, dict[str, float]]:
    """Median seconds of every part of every way, and what is equal between them.

    Raises:
        ValueError: the released way gives another loss or norm than ours.
    """
    ways = ways_of(args, stage)
    ours = ways[OURS]
    made = samples(args)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    first: dict[str, tuple[float, float]] = {}
    for number in range(args.rounds + 1):
        for name, way in ways.items():
            way.clock.seconds.clear()
            result = way.step(way.prepare(made))
            first.setdefault(name, result)
            if number:
                rounds[name].append(dict(way.clock.seconds))
    if RELEASED in first and not all(
        math.isclose(a, b, rel_tol=1e-3) for a, b in zip(first[OURS], first[RELEASED], strict=True)
    ):
        raise ValueError(f"loss and gradient norm are {first[OURS]} here and {first[RELEASED]} the released way.")
    found = {
        name: {part: statistics.median(r.get(part, 0.0) for r in taken) for part in PARTS}
        for name, taken in rounds.items()
    }
    for name, parts in found.items():
        parts["step"] = sum(seconds for part, seconds in parts.items() if part != "crops")
        parts["loss"], parts["gradient norm"] = first[name]
    head = ours.model.get_output_embeddings().weight.numel()
    found["shares"] = {"head": head / (head + sum(p.numel() for p in ours.model.get_decoder().layers.parameters()))}
    return found


def show(stage: str, found: dict[str, dict[str, float]], args: argparse.Namespace) -> None:
    """One stage as a table."""
    ways = [name for name in found if name != "shares"]
    table = Table(
        title=f"{args.version}, stage {stage}: {args.samples} samples, supervised {args.supervise}, head "
        f"{found['shares']['head']:.1%} of the language model; CPU seconds"
    )
    table.add_column("")
    for name in ways:
        table.add_column(name, justify="right")
    for part in (*PARTS, "step", "loss", "gradient norm"):
        table.add_row(part, *(f"{found[name][part]:.4f}" for name in ways))
    table.add_row("step, theirs to ours", *(f"{found[name]['step'] / found[OURS]['step']:.2f}" for name in ways))
    Console(width=120).print(table)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of the model and of the step."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--version", choices=tuple(TOWERS), default="v1", help="whose crops and zoom (%(default)s)")
    made.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES), help="(both)")
    made.add_argument("--ways", nargs="*", choices=(RELEASED, LLAVA), default=[RELEASED, LLAVA], help="beside ours")
    made.add_argument("--samples", type=int, default=4, help="of a step (%(default)s)")
    made.add_argument("--longest", type=int, default=512, help="tokens of the longest answer (%(default)s)")
    made.add_argument("--supervise", choices=("all", "assistant"), default="all", help="labels (%(default)s)")
    made.add_argument("--width", type=int, default=256, help="of the language model (%(default)s)")
    made.add_argument("--layers", type=int, default=6, help="of the language model (%(default)s)")
    made.add_argument("--words", type=int, help="of the vocabulary (an 8B's share of the products)")
    made.add_argument("--json", type=Path, help="also write the numbers here")
    return made


def main() -> None:
    options_of = parser(__doc__)
    options_of.add_argument("--rounds", type=int, default=3, help="of which the median counts, after one to warm up")
    args = options_of.parse_args()
    torch.set_num_threads(1)
    results = {}
    for stage in args.stages:
        results[stage] = measure(args, stage)
        show(stage, results[stage], args)
    if args.json:
        options = {key: value for key, value in vars(args).items() if key != "json"}
        args.json.write_text(json.dumps({"options": options, "torch": torch.__version__, "stages": results}, indent=2))


if __name__ == "__main__":
    main()
