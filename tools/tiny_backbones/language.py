"""Pretrain the tiny language model on the text of the drawn world, read after rows of noisy word vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN, IGNORE
from tools.tiny_backbones.prefixes import MOST_CROPS, draw_prefix
from tools.tiny_backbones.reading import Conversations, Readers, read, word_ids
from tools.tiny_backbones.schedule import Descent
from tools.tiny_backbones.texts import COLOURS, SHAPES

ROWS = 16
QUESTIONS_A_ROW = 8
SHARE_SHORT = 0.4
"""Share of the steps that have one crop a prefix; then prefixes grow, up to MOST_CROPS from SHARE_GROWN on."""
SHARE_GROWN = 0.75

SHARE_AFFIRMATIVE = 0.25
"""Share of the steps with few negated questions; in as many more they become half of all."""


def language_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """128 wide, 4 layers: just under a million weights."""
    words = tokenizer.get_vocab()
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=words[BEGIN_OF_TEXT],
        eos_token_id=words[END_OF_TURN],
        pad_token_id=words[END_OF_TEXT],
        initializer_range=0.05,
    )


def _draw_scenes(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    colour = torch.randint(len(COLOURS), (rows,), generator=generator)
    return colour, torch.randint(len(SHAPES), (rows,), generator=generator)


def _most_crops(progress: float) -> int:
    grown = (progress - SHARE_SHORT) / (SHARE_GROWN - SHARE_SHORT)
    return 1 + round((MOST_CROPS - 1) * min(1.0, max(0.0, grown)))


def _share_negated(progress: float) -> float:
    """Few negations at first: asked for presence and absence alike, nothing would speak for comparing at all."""
    return 0.05 + 0.45 * min(1.0, max(0.0, (progress - SHARE_AFFIRMATIVE) / SHARE_AFFIRMATIVE))


def train_language(
    tokenizer: PreTrainedTokenizerBase, num_steps: int, seed: int, on_step: Callable[[int, dict[str, float]], None]
) -> LlamaForCausalLM:
    """A language model trained for `num_steps` steps of ROWS scenes with QUESTIONS_A_ROW questions each.

    Args:
        tokenizer: see `tokenizer.py`.
        num_steps: what is easy comes first: short prefixes, and few questions for what is not there.
        seed: of the texts, the prefixes and the initial weights.
        on_step: called after each step with its number, loss and share of right answer tokens.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        model = LlamaForCausalLM(language_config(tokenizer))
        readers = Readers(model.config.hidden_size)
    rng, generator = np.random.default_rng([seed, 3]), torch.Generator().manual_seed(seed + 1)
    conversations, words = Conversations(tokenizer, rng), word_ids(tokenizer)
    descent = Descent(num_steps, model, readers)
    model.train()
    for step in range(num_steps):
        progress = step / num_steps
        colour, shape = _draw_scenes(ROWS, generator)
        num_crops = int(rng.integers(1, _most_crops(progress) + 1))
        prefix = draw_prefix(colour, shape, num_crops, model.model.embed_tokens.weight, words, generator)
        batch, facts = conversations.draw(colour, shape, QUESTIONS_A_ROW, share_negated=_share_negated(progress))
        logits, states = read(model, prefix, batch)
        labels = batch.labels[:, 1:]
        supervised = labels != IGNORE
        answers, target = logits[:, :-1][supervised], labels[supervised]
        loss = F.cross_entropy(answers, target)
        aside = readers.loss(states, batch, colour, shape, facts)
        descent.step(loss + aside)
        right = (answers.argmax(-1) == target).float().mean()
        on_step(step, {"loss": loss.item(), "readers": aside.item(), "right": right.item()})
    return model.eval()


@torch.no_grad()
def probe_language(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, seed: int, num_rows: int = 200
) -> dict[str, float]:
    """Share of questions answered word for word about new scenes, after the shortest and after the longest prefixes."""
    generator = torch.Generator().manual_seed(seed + 2)
    conversations, words = Conversations(tokenizer, np.random.default_rng([seed, 4])), word_ids(tokenizer)
    shares = {}
    for num_crops in (1, MOST_CROPS):
        colour, shape = _draw_scenes(num_rows, generator)
        prefix = draw_prefix(colour, shape, num_crops, model.model.embed_tokens.weight, words, generator)
        batch, _ = conversations.draw(colour, shape, QUESTIONS_A_ROW)
        labels = batch.labels[:, 1:]
        wrong = (read(model, prefix, batch)[0][:, :-1].argmax(-1) != labels) & (labels != IGNORE)
        by_branch = F.one_hot(batch.branch_ids[:, 1:], QUESTIONS_A_ROW + 1) * wrong[..., None]
        shares[f"answers after {num_crops} crops of words"] = (by_branch.sum(1)[:, 1:] == 0).float().mean().item()
    return shares
