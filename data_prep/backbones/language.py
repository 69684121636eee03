"""Pretrain the tiny language model on the text of the drawn world, read after rows of noisy word vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from data_prep.backbones.prefixes import MOST_CROPS, WordIds, draw_prefix
from data_prep.backbones.schedule import Descent
from data_prep.backbones.texts import COLOURS, SHAPES, question
from dragonfly_lit.processing.batches import collate
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.records import Batch, Sample, Turn
from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN, IGNORE, NEWLINE

ROWS = 24
QUESTIONS_A_ROW = 8


def language_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """128 wide, 4 layers: just under a million weights."""
    ids = {name: tokenizer.convert_tokens_to_ids(t) for name, t in (("bos", BEGIN_OF_TEXT), ("eos", END_OF_TURN), ("pad", END_OF_TEXT))}
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=ids["bos"], eos_token_id=ids["eos"], pad_token_id=ids["pad"], initializer_range=0.05,
    )  # fmt: skip


def word_ids(tokenizer: PreTrainedTokenizerBase) -> WordIds:
    """The tokens of the world's words as they stand inside a sentence, after a space."""

    def ids(words: tuple[str, ...]) -> Tensor:
        encoded = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
        assert all(len(e) == 1 for e in encoded), "every colour and shape must be one token"
        return torch.tensor(encoded).squeeze(1)

    return WordIds(colours=ids(COLOURS), shapes=ids(SHAPES), newline=int(tokenizer.convert_tokens_to_ids(NEWLINE)))


def text_builder(tokenizer: PreTrainedTokenizerBase) -> SequenceBuilder:
    """The training's own builder; no image passes through it here, so its layout does not matter."""
    layout = Layout(image_size=32, patch_size=8, class_token=True, zoom=Zoom())
    return SequenceBuilder(tokenizer=tokenizer, layout=layout, max_tokens=2048)


def draw_texts(colour: Tensor, shape: Tensor, num_questions: int, builder: SequenceBuilder, pad_id: int, rng: np.random.Generator) -> Batch:
    """A batch of questions, those about one scene as branches of one row."""
    sequences = []
    for row, (c, s) in enumerate(zip(colour.tolist(), shape.tolist(), strict=True)):
        asked = [question(COLOURS[c], SHAPES[s], rng) for _ in range(num_questions)]
        turns = [Turn(role=role, text=text) for pair in asked for role, text in zip(("user", "assistant"), pair, strict=True)]
        sequences.append(builder.build(Sample(key=f"{row}", source="world", turns=tuple(turns), share_image=True)))
    return collate(sequences, pad_id=pad_id)


def logits_after_prefix(model: LlamaForCausalLM, prefix: Tensor, batch: Batch) -> Tensor:
    """Logits of the text's tokens, [rows, tokens, words], each seeing the prefix and the tokens of its branch before it."""
    rows, length = prefix.shape[:2]
    positions = torch.cat([torch.arange(length).expand(rows, -1), batch.position_ids + length], dim=1)
    branches = F.pad(batch.branch_ids, (length, 0))
    order = torch.arange(branches.shape[1])
    key, query = branches[:, None, :], branches[:, :, None]
    seen = (order[None, :] <= order[:, None]) & ((key == 0) | (key == query))
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    embeds = torch.cat([prefix, model.get_input_embeddings()(batch.input_ids)], dim=1)
    hidden = model.model(inputs_embeds=embeds, attention_mask=mask[:, None], position_ids=positions, use_cache=False)
    return model.lm_head(hidden.last_hidden_state[:, length:])


def _draw_scenes(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randint(len(COLOURS), (rows,), generator=generator), torch.randint(len(SHAPES), (rows,), generator=generator)


def train_language(
    tokenizer: PreTrainedTokenizerBase, num_steps: int, seed: int, on_step: Callable[[int, dict[str, float]], None]
) -> LlamaForCausalLM:
    """A language model trained for `num_steps` steps of ROWS scenes with QUESTIONS_A_ROW questions each.

    Args:
        tokenizer: see `tokenizer.py`.
        num_steps: the prefixes grow from two crops to MOST_CROPS over the first half of them.
        seed: of the texts, the prefixes and the initial weights.
        on_step: called after each step with its number, loss and share of right answer tokens.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        model = LlamaForCausalLM(language_config(tokenizer))
    rng, generator = np.random.default_rng([seed, 3]), torch.Generator().manual_seed(seed + 1)
    builder, words, pad_id = text_builder(tokenizer), word_ids(tokenizer), int(tokenizer.pad_token_id)
    descent = Descent(num_steps, model)
    model.train()
    for step in range(num_steps):
        colour, shape = _draw_scenes(ROWS, generator)
        most = min(MOST_CROPS, 2 + round((MOST_CROPS - 2) * step / (0.5 * num_steps)))
        num_crops = int(rng.integers(1, most + 1))
        prefix = draw_prefix(colour, shape, num_crops, model.get_input_embeddings(), words, generator)
        batch = draw_texts(colour, shape, QUESTIONS_A_ROW, builder, pad_id, rng)
        logits, labels = logits_after_prefix(model, prefix, batch)[:, :-1], batch.labels[:, 1:]
        supervised = labels != IGNORE
        loss = F.cross_entropy(logits[supervised], labels[supervised])
        descent.step(loss)
        right = (logits[supervised].argmax(-1) == labels[supervised]).float().mean()
        on_step(step, {"loss": loss.item(), "right": right.item()})
    return model.eval()


@torch.no_grad()
def probe_language(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, seed: int, num_rows: int = 200
) -> dict[str, float]:
    """Share of questions answered word for word about new scenes, after the shortest and after the longest prefixes."""
    rng, generator = np.random.default_rng([seed, 4]), torch.Generator().manual_seed(seed + 2)
    builder, words = text_builder(tokenizer), word_ids(tokenizer)
    shares = {}
    for num_crops in (1, MOST_CROPS):
        colour, shape = _draw_scenes(num_rows, generator)
        prefix = draw_prefix(colour, shape, num_crops, model.get_input_embeddings(), words, generator)
        batch = draw_texts(colour, shape, QUESTIONS_A_ROW, builder, int(tokenizer.pad_token_id), rng)
        right = logits_after_prefix(model, prefix, batch)[:, :-1].argmax(-1) == batch.labels[:, 1:]
        wrong = F.one_hot(batch.branch_ids[:, 1:], QUESTIONS_A_ROW + 1) * (~right & (batch.labels[:, 1:] != IGNORE))[..., None]
        shares[f"answers after {num_crops} crops of words"] = (wrong.sum(1)[:, 1:] == 0).float().mean().item()
    return shares
