"""A Dragonfly in the hands of peft and of transformers' own Trainer, without a line of this project's training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from talkative import talkative_model
from transformers import Trainer, TrainingArguments, pipeline

from dragonfly_lit import DragonflyForConditionalGeneration
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.processing.prompts import question_text
from dragonfly_lit.spec.tokens import IGNORE

pytest.importorskip("accelerate")  # the Trainer needs it; it comes with peft


@pytest.fixture(scope="module")
def processor():
    return DragonflyProcessor(DragonflyImageProcessor.of(tiny_model().layout), tiny_tokenizer())


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)) for _ in range(4)]
    return [{"image": picture, "answer": answer} for picture, answer in zip(pictures, "abcd", strict=True)]


def collator(processor):
    def collate(rows):
        texts = [question_text("Which?") + row["answer"] + "<|eot_id|>" for row in rows]
        images = [row["image"] for row in rows]
        return dict(processor(text=texts, images=images, supervise="assistant", padding_side="right"))

    return collate


def arguments(folder, **options) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )


def accuracy(prediction) -> dict[str, float]:
    chosen = prediction.predictions.argmax(-1)[:, :-1]
    labels = prediction.label_ids[:, 1:]
    return {"accuracy": float((chosen == labels)[labels != IGNORE].mean())}


def test_the_trainer_trains_evaluates_and_keeps_the_best_model(tmp_path, processor, samples):
    trainer = Trainer(
        model=tiny_model(),
        args=arguments(
            tmp_path,
            learning_rate=1e-2,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=2,
            save_steps=2,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
        ),
        data_collator=collator(processor),
        train_dataset=samples,
        eval_dataset=samples,
        compute_metrics=accuracy,
    )
    assert trainer.label_names == ["labels"]
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert 0 <= after["eval_accuracy"] <= 1
    best = max(log["eval_accuracy"] for log in trainer.state.log_history if "eval_accuracy" in log and log["step"])
    assert after["eval_accuracy"] == best
    assert trainer.predict(samples).predictions.shape[0] == len(samples)
    again = DragonflyForConditionalGeneration.from_pretrained(
        trainer.state.best_model_checkpoint, trust_remote_code=False
    )
    weights = trainer.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in again.state_dict().items())


def test_the_trainers_loss_is_the_models(tmp_path, processor, samples):
    batch = collator(processor)(samples)
    model = tiny_model()
    trainer = Trainer(
        model=model, args=arguments(tmp_path), data_collator=collator(processor), eval_dataset=samples[:2]
    )
    with torch.no_grad():
        expected = model(**collator(processor)(samples[:2])).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    weighted = model(**batch, label_weights=torch.zeros_like(batch["labels"], dtype=torch.float))
    assert weighted.loss == 0


def test_adapters_of_peft_train_merge_and_answer(tmp_path, processor, samples):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    batch = collator(processor)(samples)
    question = processor(text=question_text("Which?"), images=samples[0]["image"])
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=r".*language.*\.(q_proj|v_proj)")
    model = peft.get_peft_model(tiny_model(), config)
    assert 0 < sum(p.numel() for p in model.parameters() if p.requires_grad) < 2000
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(3):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    logits = model(**batch).logits
    answer = model.generate(**question, max_new_tokens=4, do_sample=False)
    model.save_pretrained(tmp_path / "adapters")
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "adapters")
    assert torch.equal(loaded(**batch).logits, logits)
    merged = model.merge_and_unload()
    assert type(merged) is DragonflyForConditionalGeneration
    torch.testing.assert_close(merged(**batch).logits, logits, atol=1e-5, rtol=0)
    assert torch.equal(merged.generate(**question, max_new_tokens=4, do_sample=False), answer)
    merged.save_pretrained(tmp_path / "merged")
    again = DragonflyForConditionalGeneration.from_pretrained(tmp_path / "merged", trust_remote_code=False)
    assert torch.equal(again(**batch).logits, merged(**batch).logits)


def test_adapters_of_peft_in_the_trainer(tmp_path, processor, samples):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", modules_to_save=["projector"])
    model = peft.get_peft_model(tiny_model(), config)
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, gradient_checkpointing=True),
        data_collator=collator(processor),
        train_dataset=samples,
        eval_dataset=samples,
    )
    assert trainer.train().training_loss > 0
    assert trainer.evaluate()["eval_loss"] > 0


@pytest.fixture(scope="module")
def saved(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("saved")
    model = talkative_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, folder


def test_transformers_pipeline_answers(saved, processor, samples):
    model, folder = saved
    ask = pipeline("image-text-to-text", model=str(folder), trust_remote_code=False)
    part = {"type": "image", "image": samples[0]["image"]}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "Which?"}]}]
    said = ask(text=messages, max_new_tokens=4, do_sample=False, return_full_text=False)[0]["generated_text"]
    inputs = processor(text=question_text("Which?"), images=samples[0]["image"])
    expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert said == processor.decode(expected, skip_special_tokens=True)


@pytest.mark.usefixtures("unchecked")  # a batch of unequal numbers of images is named
def test_a_pipeline_answers_a_batch_as_one_by_one(saved, processor, samples):
    _, folder = saved
    ask = pipeline("image-text-to-text", model=str(folder), trust_remote_code=False)
    options = {"return_full_text": False, "generate_kwargs": {"max_new_tokens": 4, "do_sample": False}}
    questions = ["Which?", "Which shape is in this image, and why?", "Why?", "What is the colour of the shape?"]

    def chat(question, *pictures):
        parts = [{"type": "image", "image": picture} for picture in pictures]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]

    chats = [chat(question, row["image"]) for question, row in zip(questions, samples, strict=True)]
    alone = [ask(text=each, **options)[0]["generated_text"] for each in chats]
    assert len(set(alone)) > 1
    for size in (2, 4):
        assert [said[0]["generated_text"] for said in ask(text=chats, batch_size=size, **options)] == alone
    pictures, texts = [row["image"] for row in samples], [processor.question_text(question) for question in questions]
    assert [said["generated_text"] for said in ask(images=pictures, text=texts, **options)] == alone
    two = [chat("Which?", *pictures[:2]), chat("Why?", pictures[2])]
    with pytest.raises(ValueError, match=r"image_grids has 2 rows for 3 images.*leave batch_size=1"):
        ask(text=two, batch_size=2, **options)
    assert len(ask(text=two, **options)) == 2
    with pytest.raises(ValueError, match=r"do_sample=False is an argument of generate.*generate_kwargs="):
        ask(images=pictures[0], text=texts[0], do_sample=False)
