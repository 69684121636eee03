"""Questions about scenes as one batch, read after their prefixes, and what the middle blocks should know by then."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from dragonfly_lit.processing.batches import collate
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.records import Batch, Sample, Turn
from dragonfly_lit.spec.tokens import IGNORE, special_ids
from tools.tiny_backbones.prefixes import WordIds
from tools.tiny_backbones.texts import COLOURS, SHAPES, Asked, ask

NUM_HEADER_TOKENS = 5
"""From a question's `<|eot_id|>` to the answer: the header of the assistant."""
SCENE_BLOCK, FACTS_BLOCK = 2, 3


class Conversations:
    """Draws questions and encodes them with the training's own builder, one scene a row, one question a branch."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator) -> None:
        # No image passes through the builder here, so its layout does not matter.
        layout = Layout(image_size=32, patch_size=8, class_token=True, zoom=Zoom())
        self.builder = SequenceBuilder(tokenizer=tokenizer, layout=layout, max_tokens=2048)
        self.pad_id, self.rng = special_ids(tokenizer).end, rng

    def draw(
        self, colour: Tensor, shape: Tensor, num_questions: int, share_negated: float = 0.5
    ) -> tuple[Batch, Tensor]:
        """The batch of `num_questions` questions a scene, and which hold and are negated, [rows, questions, 2]."""
        scenes = [(COLOURS[c], SHAPES[s]) for c, s in zip(colour.tolist(), shape.tolist(), strict=True)]
        asked = [[ask(*scene, self.rng, share_negated) for _ in range(num_questions)] for scene in scenes]
        facts = [
            [[IGNORE if fact is None else int(fact) for fact in (one.holds, one.negated)] for one in row]
            for row in asked
        ]
        return collate([self._row(row) for row in asked], pad_id=self.pad_id), torch.tensor(facts)

    def _row(self, asked: list[Asked]):
        pairs = [(Turn(role="user", text=one.text), Turn(role="assistant", text=one.answer)) for one in asked]
        return self.builder.build(Sample(key="scene", source="world", turns=tuple(chain(*pairs)), share_image=True))


def word_ids(tokenizer: PreTrainedTokenizerBase) -> WordIds:
    """The tokens of the world's words as they appear inside a sentence, after a space."""

    def ids(words: tuple[str, ...]) -> Tensor:
        encoded = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
        assert all(len(e) == 1 for e in encoded), "every colour and shape must be one token"
        return torch.tensor(encoded).squeeze(1)

    return WordIds(colours=ids(COLOURS), shapes=ids(SHAPES), newline=special_ids(tokenizer).newline)


def read(model: LlamaForCausalLM, prefix: Tensor, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits [rows, tokens, words] and the text's hidden states, embeddings first, each [rows, tokens, width].

    A token sees the prefix and the tokens of its own branch before it.
    """
    rows, length = prefix.shape[:2]
    positions = torch.cat([torch.arange(length).expand(rows, -1), batch.position_ids + length], dim=1)
    branches = F.pad(batch.branch_ids, (length, 0))
    order = torch.arange(branches.shape[1])
    key, query = branches[:, None, :], branches[:, :, None]
    seen = (order[None, :] <= order[:, None]) & ((key == 0) | (key == query))
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    out = model.model(
        inputs_embeds=torch.cat([prefix, model.get_input_embeddings()(batch.input_ids)], dim=1),
        attention_mask=mask[:, None],
        position_ids=positions,
        use_cache=False,
        output_hidden_states=True,
    )
    return model.lm_head(out.last_hidden_state[:, length:]), tuple(state[:, length:] for state in out.hidden_states)


class Readers(nn.Module):
    """Linear readers of the middle blocks, thrown away after training.

    After SCENE_BLOCK blocks every word of a question must know the scene's colour and shape, after FACTS_BLOCK the
    header of the answer must know whether what the question names is there, and whether it is negated. Left to the
    loss on the answers alone, a model this small does not learn to compare within 900 steps: yes and no stay a coin's
    toss.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colour = nn.Linear(width, len(COLOURS))
        self.shape = nn.Linear(width, len(SHAPES))
        self.facts = nn.Linear(width, 4)

    def loss(self, states: tuple[Tensor, ...], batch: Batch, colour: Tensor, shape: Tensor, facts: Tensor) -> Tensor:
        """Sum of the cross-entropies: colour and shape at half weight, what holds and what is negated."""
        asked = batch.branch_ids > 0
        rows = asked.nonzero()[:, 0]
        scene = states[SCENE_BLOCK][asked]
        losses = F.cross_entropy(self.colour(scene), colour[rows]) + F.cross_entropy(self.shape(scene), shape[rows])
        row, first = _first_answer_tokens(batch)
        header = first[:, None] - torch.arange(1, NUM_HEADER_TOKENS + 1)
        known = self.facts(states[FACTS_BLOCK][row[:, None], header]).unflatten(-1, (2, 2))
        target = facts[row, batch.branch_ids[row, first] - 1][:, None].expand(-1, NUM_HEADER_TOKENS, -1)
        return 0.5 * losses + 2 * F.cross_entropy(known.flatten(0, 2), target.flatten(), ignore_index=IGNORE)


def _first_answer_tokens(batch: Batch) -> tuple[Tensor, Tensor]:
    """Row and place of the first token of every answer."""
    supervised = batch.labels != IGNORE
    before = F.pad(supervised[:, :-1], (1, 0))
    row, place = (supervised & ~before).nonzero(as_tuple=True)
    return row, place
