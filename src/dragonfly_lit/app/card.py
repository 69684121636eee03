"""The model card that `export` writes beside weights, README.md.

Only what the files at hand say; what they do not is said to be unknown. No path of the machine is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from dragonfly_lit.app.provenance import LOCK_FILE, Trained
from dragonfly_lit.evaluation.markdown import plain
from dragonfly_lit.evaluation.report import headline_text, interval_text, num_questions
from dragonfly_lit.models.config import DragonflyConfig, portable
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.spec.layout import Layout

UNKNOWN = "not known"

USE = """```python
import dragonfly_lit  # registers the model; or give trust_remote_code=True twice
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")
parts = [{"type": "image", "image": "photo.jpg"}, {"type": "text", "text": "What is this?"}]
chat = [{"role": "user", "content": parts}]
inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```"""
USE_PEFT = """```python
from pathlib import Path

import dragonfly_lit  # registers the model
from peft import PeftConfig, PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = Path("FOLDER")
base = folder / PeftConfig.from_pretrained(folder).base_model_name_or_path
model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), folder)
processor = AutoProcessor.from_pretrained(base)
```"""
USE_RELEASED = """```python
from dragonfly_lit import DragonflyForConditionalGeneration, DragonflyProcessor

model = DragonflyForConditionalGeneration.from_released("FOLDER", version="VERSION")
processor = DragonflyProcessor.from_released("FOLDER", vision="FOLDER/image_encoder", version="VERSION")
```"""


def card(
    name: str,
    model: DragonflyForConditionalGeneration,
    trainings: Sequence[Trained],
    scores: Sequence[Mapping[str, Any]],
    layout: str,
) -> str:
    """The model card as Markdown, its front matter for the hub.

    Args:
        name: of the model: its title, and what it is loaded by.
        model: what is exported.
        trainings: of `provenance.trainings_of`.
        scores: of `provenance.scores_of`.
        layout: `transformers`, `released` or `peft`.
    """
    front = "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\ntags: [dragonfly, dragonfly_lit]\n---"
    released = trainings[0].config["model"].get("version", "v1") if trainings else "v1"
    use = {"transformers": USE, "peft": USE_PEFT}.get(layout, USE_RELEASED.replace("VERSION", str(released)))
    for written in ("FOLDER/image_encoder", "FOLDER"):  # as strings of Python, whatever the name holds
        use = use.replace(f'"{written}"', json.dumps(written.replace("FOLDER", name), ensure_ascii=False))
    parts = [
        front,
        f"# {plain(name)}",
        "A Dragonfly: a vision-language model that looks at an image at several resolutions and zooms into the crops "
        f"that matter. Written by dragonfly_lit {version('dragonfly_lit')}, whose package is needed to load it.",
        use,
        "## Made of\n\n" + _table(("part", "what"), _parts(model, trainings)),
        "## Trained\n\n" + _training(trainings, apart=layout == "peft"),
        "## Data\n\n" + _data(trainings),
        "## Scores\n\n" + _scores(scores),
        "## Limits\n\n" + _limits(model.layout, trainings, scores),
        "## Licences\n\nThe weights come from the parts named above, whose licences go on to apply, as do those of "
        "the data. Nobody has checked here whether they allow what you have in mind.",
    ]
    return "\n\n".join(parts) + "\n"


def _parts(model: DragonflyForConditionalGeneration, trainings: Sequence[Trained]) -> list[tuple[str, str]]:
    config, layout, zoom = model.config, model.layout, model.layout.zoom
    language: Any = config.text_config._name_or_path
    if trainings:
        language = trainings[0].config["model"].get("released") or trainings[0].config["language"]["path"]
    counts = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in ("vision", "language")}
    total = sum(p.numel() for p in model.parameters())
    levels = [
        f"{name} {number}"
        for name, number in (("low", int(zoom.low)), ("medium", zoom.num_medium), ("high", zoom.num_high))
        if number
    ]
    return [
        ("vision tower", f"{_source(config, trainings)}, {counts['vision']:,} parameters"),
        ("language model", f"{portable(str(language)) or UNKNOWN}, {counts['language']:,} parameters"),
        ("zoom", f"crops of {layout.image_size} px: {', '.join(levels)}; {zoom.num_high_kept} of the high ones kept"),
        ("an image", f"{layout.num_tokens:,} tokens"),
        ("conversations", f"chat={config.chat}, images={config.images}"),
        ("all", f"{total:,} parameters in {str(model.dtype).removeprefix('torch.')}"),
    ]


def _source(config: DragonflyConfig, trainings: Sequence[Trained]) -> str:
    given = trainings[0].config["vision"]["path"] if trainings else config.vision_source
    return portable(str(given)) if given else UNKNOWN


def _training(trainings: Sequence[Trained], *, apart: bool) -> str:
    if not trainings:
        return "The model was exported from a folder without a run, so its training is not known here."
    rows = []
    for trained in trainings:
        config, info = trained.config, trained.info
        stage, rounded = config["stage"], config["model"].get("quantize")
        steps = f"{info.step:,} of {info.steps:,}" if info is not None else UNKNOWN
        what = ", ".join(f"{group['match']} at {group['lr']:g}" for group in stage["groups"])
        lora = ""
        if stage.get("lora"):
            lora = "; LoRA, by itself" if apart and trained is trainings[0] else "; LoRA, merged"
        below = f"; the language model rounded to {rounded}" if rounded else ""
        rows.append((stage["name"], steps, f"{what}{lora}{below}", config["seed"], config["trainer"]["precision"]))
    told = _table(("stage", "steps", "weights and learning rate", "seed", "precision"), rows)
    start = trainings[-1].config.get("init_from") or trainings[-1].config["model"].get("released")
    if start:
        told += f"\n\nThe first of these started from {plain(portable(str(start)))}, which is not at hand here."
    return told if len(trainings) == 1 else f"The last stage comes first.\n\n{told}"


def _data(trainings: Sequence[Trained]) -> str:
    if not trainings:
        return "Not known here."
    rows = []
    for trained in trainings:
        for one in trained.sources:
            share = UNKNOWN if one["share"] is None else f"{100 * one['share']:.1f}%"
            number = UNKNOWN if one["num_samples"] is None else f"{one['num_samples']:,}"
            digest = one["sha256"][:12] if one["sha256"] else UNKNOWN
            rows.append(
                (trained.config["stage"]["name"], one["name"], share, number, one["licence"] or UNKNOWN, digest)
            )
    return (
        _table(("stage", "source", "share of the draws", "samples", "licence", "checksum"), rows)
        + f"\n\nThe checksum is the beginning of the SHA-256 over those of the shards, one a line; `{LOCK_FILE}` has "
        "every shard by name and checksum. A source that is not at hand any more is not known."
    )


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return "None lay beside the model when it was exported: it was not scored, or elsewhere."
    rows = []
    for entry in scores:
        note = "" if entry["same"] else "other weights"
        rows.append(
            (
                entry["benchmark"],
                entry["split"],
                entry["headline"],
                num_questions(entry),
                entry["prompt"]["set"],
                headline_text(entry),
                interval_text(entry, entry["headline"]),
                note,
            )
        )
    told = _table(
        ("benchmark", "split", "metric", "questions", "prompt", "score", f"{scores[0]['level']:.0%} interval", "note"),
        rows,
    )
    notes = ["Intervals resample whole images."]
    if any(entry.get("limited") for entry in scores):
        notes.append("Limited scores are of the first questions only and not comparable with published ones.")
    if not all(entry["same"] for entry in scores):
        notes.append("Other weights: scored at another step of the training, or in another type of numbers.")
    return f"{told}\n\n{' '.join(notes)}"


def _limits(layout: Layout, trainings: Sequence[Trained], scores: Sequence[Mapping[str, Any]]) -> str:
    zoom = layout.zoom
    most = zoom.high_crops if zoom.high else zoom.medium_crops if zoom.medium else 1
    lines = [
        f"An image is seen at no more than about {most * layout.image_size**2 / 1e6:.2g} megapixels ({most} crops of "
        f"{layout.image_size} px); what is smaller than a pixel there is lost.",
        "It answers with words that are likely, true or not, also about what is not in the image.",
    ]
    if zoom.selects:
        lines.append(f"Of the high crops {zoom.num_high_kept} of {zoom.num_high} are kept; the rest is not read.")
    if trainings:
        lines.append(f"A conversation has at most {trainings[0].config['model']['max_tokens']:,} tokens in training.")
        if trainings[0].config["model"].get("name") == "tiny":
            lines.append("model=tiny knows coloured shapes and nothing else; it is there to make code run.")
    if not scores:
        lines.append("No score is known, so nothing is known of how well it answers.")
    lines.append("It was tested for nothing beyond the scores above, and is not a medical device.")
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(plain(str(cell)) for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])
