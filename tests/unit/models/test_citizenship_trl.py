"""A Dragonfly in the hands of trl, where it is installed: supervised and preference training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor

ASK = "optional: pip install trl"
trl = pytest.importorskip("trl", reason=ASK)
datasets = pytest.importorskip("datasets", reason=ASK)
QUESTION = [{"role": "user", "content": "Which?"}]


def said(answer: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def processor():
    return DragonflyProcessor(DragonflyImageProcessor.of(tiny_model().layout), tiny_tokenizer())


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)) for _ in range(4)]


def options(folder) -> dict:
    return {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }


def logged(trainer, name: str) -> list[float]:
    trainer.train()
    return [log[name] for log in trainer.state.log_history if name in log]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_supervised_training_learns_exactly_what_this_project_learns(tmp_path, processor, pictures):
    answers = ["red", "a blue cross", "b", "green, and nothing else"]
    rows = [{"images": [p], "prompt": QUESTION, "completion": said(a)} for p, a in zip(pictures, answers, strict=True)]
    model = tiny_model()
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**options(tmp_path)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processor,
    )
    chats = [
        [
            {"role": "user", "content": [{"type": "image", "image": p}, {"type": "text", "text": "Which?"}]},
            *said(answer),
        ]
        for p, answer in zip(pictures, answers, strict=True)
    ]
    batch = processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, supervise="assistant", padding_side="right"
    )
    with torch.no_grad():
        expected = model(**batch).loss.item()
    losses = logged(trainer, "loss")
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_the_first_loss_of_preferences_is_ln_2_and_they_are_learnt(tmp_path, processor, pictures):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    model = type(model).from_pretrained(tmp_path / "model", trust_remote_code=False)  # the reference is read from there
    rows = [{"images": [p], "prompt": QUESTION, "chosen": said("red"), "rejected": said("no")} for p in pictures]
    trainer = trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(**options(tmp_path)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processor,
    )
    batch = trainer.data_collator([dict(row) for row in rows])
    begin = processor.tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    assert batch["input_ids"].eq(begin).sum(1).tolist() == [1] * 8  # answers go on, so none begins a text again
    losses = logged(trainer, "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0]
    assert trainer.state.log_history[-2]["rewards/accuracies"] == 1
