"""How the tiny backbones are trained, and the ones that come with the package."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, CLIPVisionModel, LlamaForCausalLM

import dragonfly_lit.models
from dragonfly_lit.spec.tokens import IGNORE
from tools.tiny_backbones.command import main
from tools.tiny_backbones.language import language_config, probe_language
from tools.tiny_backbones.prefixes import SLOTS_A_CROP, draw_prefix
from tools.tiny_backbones.reading import NUM_HEADER_TOKENS, Conversations, read, word_ids
from tools.tiny_backbones.schedule import Descent, rate_factor
from tools.tiny_backbones.texts import COLOURS, SHAPES
from tools.tiny_backbones.tokenizer import train_tokenizer

SHIPPED = Path(dragonfly_lit.models.__file__).parent / "tiny_weights"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(language_config(tokenizer)).eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("backbones")
    assert main(["--out", str(out), "--tower-steps", "1", "--language-steps", "1", "--threads", "1"]) == 0
    return out


def test_the_folders_are_plain_transformers_in_bfloat16(made):
    tower, language = (
        CLIPVisionModel.from_pretrained(made / "vision"),
        LlamaForCausalLM.from_pretrained(made / "language"),
    )
    assert {p.dtype for m in (tower, language) for p in m.parameters()} == {torch.bfloat16}
    assert len(AutoTokenizer.from_pretrained(made / "tokenizer")) == language.config.vocab_size
    assert "--tower-steps 1" in (made / "README.md").read_text()


def test_the_same_seed_makes_the_same_weights(made, tmp_path):
    main(["--out", str(tmp_path), "--tower-steps", "1", "--language-steps", "1", "--threads", "1"])
    for name in ("vision", "language"):
        assert (tmp_path / name / "model.safetensors").read_bytes() == (made / name / "model.safetensors").read_bytes()


def test_no_steps_are_refused_with_the_key_and_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"--tower-steps=0 .*Use 1 or more"):
        main(["--out", str(tmp_path), "--tower-steps", "0"])


def test_the_words_of_the_caption_can_be_read_off_a_prefix(model, tokenizer):
    words, rows = word_ids(tokenizer), 64
    generator = torch.Generator().manual_seed(0)
    colour = torch.randint(len(COLOURS), (rows,), generator=generator)
    shape = torch.randint(len(SHAPES), (rows,), generator=generator)
    prefix = draw_prefix(colour, shape, 8, model.get_input_embeddings().weight, words, generator)
    assert prefix.shape == (rows, 8 * (SLOTS_A_CROP + 1), model.config.hidden_size)
    varying = prefix.var(dim=1)
    assert (varying > 0).all()
    table = model.get_input_embeddings().weight[words.colours]
    scores = torch.einsum("rsd,cd->rsc", prefix - prefix.median(dim=1, keepdim=True).values, table)
    read = scores.clamp(min=0).pow(2).mean(dim=1).argmax(dim=-1)
    assert (read == colour).float().mean() > 0.8


@pytest.fixture
def asked(model, tokenizer):
    """A prefix of one scene, three questions about it, and whether what each names is there."""
    colour, shape = torch.tensor([0]), torch.tensor([1])
    generator = torch.Generator().manual_seed(1)
    prefix = draw_prefix(colour, shape, 2, model.get_input_embeddings().weight, word_ids(tokenizer), generator)
    return prefix, *Conversations(tokenizer, np.random.default_rng(0)).draw(colour, shape, 3)


@torch.no_grad()
def test_a_question_does_not_see_the_others_of_its_scene(model, tokenizer, asked):
    prefix, batch, _ = asked
    before, _ = read(model, prefix, batch)
    first = batch.branch_ids == 1
    after, _ = read(model, prefix, replace(batch, input_ids=batch.input_ids.masked_fill(first, tokenizer.bos_token_id)))
    assert not torch.allclose(before[first], after[first])
    torch.testing.assert_close(before[~first], after[~first])


@torch.no_grad()
def test_a_question_sees_the_prefix(model, asked):
    prefix, batch, _ = asked
    answers = batch.labels != IGNORE
    assert not torch.allclose(read(model, prefix, batch)[0][answers], read(model, prefix.flip(1), batch)[0][answers])


def test_the_header_of_an_answer_is_as_long_as_the_readers_believe(tokenizer, asked):
    _, batch, _ = asked
    first = (batch.labels[0] != IGNORE).nonzero()[0, 0]
    header = tokenizer.decode(batch.input_ids[0, first - NUM_HEADER_TOKENS : first])
    assert header == "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


def test_the_rate_rises_and_falls_to_nothing():
    factors = [rate_factor(step, 100) for step in range(100)]
    assert max(factors) == 1.0
    assert factors[0] < 0.5
    assert factors[-1] < 0.01
    assert factors.index(1.0) < 10


def test_a_descent_goes_down():
    torch.manual_seed(0)
    net = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]), "head": nn.Linear(8, 1)})
    x = torch.randn(64, 8)
    descent, losses = Descent(60, net), []
    for _ in range(60):
        hidden = torch.tanh(net["layers"][1](torch.tanh(net["layers"][0](x))))
        loss = (net["head"](hidden) - x[:, :1]).pow(2).mean()
        descent.step(loss)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_shipped_weights_are_small_and_plain():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}
    assert CLIPVisionModel.from_pretrained(SHIPPED / "vision").config.image_size == 32


def test_the_shipped_tokenizer_is_the_one_that_the_code_makes(tokenizer):
    shipped = AutoTokenizer.from_pretrained(SHIPPED / "tokenizer")
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert shipped.pad_token == tokenizer.pad_token


def test_the_shipped_language_model_answers_about_words_it_is_shown():
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "tokenizer")
    language = LlamaForCausalLM.from_pretrained(SHIPPED / "language", dtype=torch.float32)
    assert min(probe_language(language, tokenizer, seed=1, num_rows=40).values()) > 0.6
