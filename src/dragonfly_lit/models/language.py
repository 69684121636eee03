"""The causal language model: any of transformers' that takes `inputs_embeds`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import ActivationWrapper, CheckpointWrapper
from torch.utils.checkpoint import noop_context_fn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def build_language(config: PreTrainedConfig) -> PreTrainedModel:
    """A language model of random weights.

    Raises:
        ValueError: the model changes its logits after the head; the loss reads the head alone.
    """
    for name in _LOGIT_CHANGES:
        if (value := getattr(config, name, None)) not in (None, 1, 1.0):
            raise ValueError(
                f"language {name}={value}: {config.model_type} changes its logits after the head, which the row-wise "
                "loss does not reproduce. Use a Llama, Qwen, SmolLM or Mistral model."
            )
    return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def decoder_of(language: PreTrainedModel) -> PreTrainedModel:
    """The stack of blocks below the head, also when adapters are wrapped around it."""
    return cast(PreTrainedModel, language.get_decoder())


def head_of(language: PreTrainedModel) -> nn.Linear:
    """The layer from hidden states to logits."""
    return cast(nn.Linear, language.get_output_embeddings())


def words_of(language: PreTrainedModel) -> nn.Embedding:
    """The word embeddings."""
    return cast(nn.Embedding, language.get_input_embeddings())


@contextmanager
def last_block_at(decoder: nn.Module, rows: Tensor) -> Iterator[None]:
    """Within, the last block's queries, what attention gives and its MLP are computed at `rows` and are 0 elsewhere.

    What the decoder then gives is right at these rows and without meaning at others; keys and values are whole. A
    wrapped block that is computed again in backward, when this has ended, is computed at these rows again. A block
    that is compiled, or that computes itself again, is left as it is.

    Args:
        decoder: whose blocks are `layers`, with `mlp`, `self_attn.q_proj` and `self_attn.o_proj`; those that a kind of
            model does not have are left out.
        rows: flat positions, row-major.
    """
    layers = getattr(decoder, "layers", None)
    last = layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None
    if last is None or last._compiled_call_impl is not None or getattr(last, "gradient_checkpointing", False):
        yield
        return
    with ExitStack() as stack:
        while isinstance(last, ActivationWrapper):
            if isinstance(last, CheckpointWrapper):
                stack.callback(setattr, last, "checkpoint_fn", last.checkpoint_fn)
                contexts = partial(_contexts, last.checkpoint_fn, last._checkpoint_wrapped_module, rows)
                last.checkpoint_fn = partial(last.checkpoint_fn, context_fn=contexts)
            last = last._checkpoint_wrapped_module
        stack.enter_context(_parts_at(last, rows))
        yield


def last_block_at_ends(decoder: nn.Module, ids: Tensor) -> AbstractContextManager[None]:
    """`last_block_at` the last token of every row, where only its logits and the cache are asked for.

    Elsewhere than on a CPU, and of one token a row, nothing is left out.

    Args:
        decoder: as for `last_block_at`.
        ids: (rows, tokens) what the decoder reads, padded on the left.
    """
    rows, tokens = ids.shape
    if tokens == 1 or ids.device.type != "cpu":
        return nullcontext()
    return last_block_at(decoder, torch.arange(1, rows + 1) * tokens - 1)


def _contexts(
    checkpoint: partial[Any], block: nn.Module, rows: Tensor
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Around the forward of a block, and around the one in backward."""
    forward, again = checkpoint.keywords.get("context_fn", noop_context_fn)()
    return forward, _both(again, _parts_at(block, rows))


@contextmanager
def _both(one: AbstractContextManager[Any], other: AbstractContextManager[Any]) -> Iterator[None]:
    with one, other:
        yield


@contextmanager
def _parts_at(block: nn.Module, rows: Tensor) -> Iterator[None]:
    attention = getattr(block, "self_attn", None)
    parts = (getattr(block, "mlp", None), getattr(attention, "q_proj", None), getattr(attention, "o_proj", None))
    hooks = []
    for part in parts:
        if isinstance(part, nn.Module):
            shape: list[Any] = []
            hooks.append(part.register_forward_pre_hook(partial(_take, rows, shape)))
            hooks.append(part.register_forward_hook(partial(_put_back, rows, shape)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _take(rows: Tensor, shape: list[Any], _module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    states, *others = arguments
    shape[:] = states.shape[:-1]
    return states.flatten(0, -2).index_select(0, rows), *others


def _put_back(
    rows: Tensor, shape: list[Any], _module: nn.Module, _arguments: tuple[Any, ...], output: Tensor
) -> Tensor:
    whole = output.new_zeros(shape[0] * shape[1], output.shape[-1])
    return whole.index_copy(0, rows, output).unflatten(0, shape)
