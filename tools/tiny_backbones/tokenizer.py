"""A byte-level BPE tokenizer of a few hundred words, with the special tokens of Llama-3 that Dragonfly needs."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN, STRUCTURAL
from tools.tiny_backbones.texts import COLOURS, SHAPES, every_sentence

NUM_WORDS = 512
LLAMA_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama-3 cuts text before its pairs are merged; a blank line is one piece."""
ANSWER_REPEATS = 200
"""An answer comes without a space before it, which its sentences never show: it is repeated until it is one word."""


def train_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the world's text; any other text still encodes, byte by byte."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_WORDS,
        special_tokens=list(STRUCTURAL),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    answers = [*COLOURS, *SHAPES, "yes", "no", "user", "assistant", "\n\n"]
    core.train_from_iterator([*every_sentence(), *answers * ANSWER_REPEATS], trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN_OF_TEXT} $A",
        pair=f"{BEGIN_OF_TEXT} $A $B",
        special_tokens=[(BEGIN_OF_TEXT, core.token_to_id(BEGIN_OF_TEXT))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BEGIN_OF_TEXT,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[t for t in STRUCTURAL if t not in (BEGIN_OF_TEXT, END_OF_TURN, END_OF_TEXT)],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
