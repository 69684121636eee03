import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.prompts import placed
from dragonfly_lit.evaluation.requests import GenerationRequest
from dragonfly_lit.models import decoding
from dragonfly_lit.models.host_reads import LateReads
from dragonfly_lit.models.tiny import tiny_config, tiny_model, tiny_tokenizer
from dragonfly_lit.processing.crops import cut
from dragonfly_lit.processing.encoding import tokenize
from dragonfly_lit.processing.images import decode
from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor
from dragonfly_lit.processing.prompts import question_text
from dragonfly_lit.spec.records import Turn
from dragonfly_lit.spec.tokens import special_ids

PROCESSOR = DragonflyProcessor(DragonflyImageProcessor.of(tiny_config().layout), tiny_tokenizer())


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=3).eval()


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed * 7 % 30, 24 + seed * 11 % 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def asks(num: int = 23, *, per_image: int = 4) -> list[GenerationRequest]:
    draw = random.Random(0)
    made = []
    for i in range(num):
        pictures = () if i % 7 == 3 else (picture(i // per_image),) if i % 7 != 5 else (picture(i), picture(i + 1))
        made.append(
            GenerationRequest(
                id=f"q{i}",
                prompt="".join(draw.choices("abcd efg", k=draw.randint(1, 30))) + "?",
                image_keys=tuple(str(hash(p)) for p in pictures),
                read_images=lambda pictures=pictures: pictures,
                max_new_tokens=3 + i % 6,
            )
        )
    return made


def alone(model, request: GenerationRequest) -> str:
    """The straightforward way: transformers' generate on one prompt."""
    tokenizer, layout = tiny_tokenizer(), model.config.layout
    ids = special_ids(tokenizer)
    crops = [cut(decode(data), layout) for data in request.read_images()]
    tokenized = tokenize(tokenizer, question_text(request.prompt))
    images = layout.image_ids(ids.image, ids.newline) * len(crops)
    inputs = {"input_ids": torch.tensor([[*images, ids.begin, *tokenized.ids]])}
    if crops:
        inputs["pixel_values"] = torch.stack([crop.pixels for crop in crops])
        inputs["image_grids"] = torch.tensor([[list(g) for g in crop.grids] for crop in crops])
        inputs["question_mask"] = torch.tensor([[False] * (len(images) + 1) + tokenized.question])
    stops = [tokenizer.convert_tokens_to_ids(token) for token in ("<|eot_id|>", "<|end_of_text|>")]
    out = model.generate(
        **inputs,
        attention_mask=torch.ones_like(inputs["input_ids"]),
        do_sample=False,
        max_new_tokens=request.max_new_tokens,
        eos_token_id=stops,
        pad_token_id=stops[1],
        suppress_tokens=[ids.image],
    )
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def ask_all(generator: BatchGenerator, questions: list[GenerationRequest]) -> dict[str, str]:
    return {output.id: output.text for outputs in generator.answer(generator.plan(questions)) for output in outputs}


@pytest.mark.parametrize("way", ["dynamic", "static"])
@pytest.mark.parametrize("batch_tokens", [1, 700, 3000, 100_000])
def test_batched_answers_are_those_of_one_by_one(model, batch_tokens, way):
    expected = {request.id: alone(model, request) for request in asks()}
    assert len(set(expected.values())) > 5, "the tiny model says the same to everything: the test shows nothing"
    generator = BatchGenerator(model, PROCESSOR, batch_tokens=batch_tokens, decoding=way)
    assert ask_all(generator, asks()) == expected


@pytest.mark.parametrize("way", ["dynamic", "static"])
def test_the_last_block_of_a_prompt_computes_one_token_a_row(model, monkeypatch, way):
    generator = BatchGenerator(model, PROCESSOR, batch_tokens=100_000, decoding=way)
    first, *_, last = model.get_decoder().layers
    tokens = {first: [], last: []}
    for block, seen in tokens.items():  # no hooks: with them nothing is decoded in place
        layer, forward = block.mlp.down_proj, block.mlp.down_proj.forward
        monkeypatch.setattr(layer, "forward", lambda x, f=forward, s=seen: (s.append(x.shape[:-1].numel()), f(x))[1])
    batch = generator.plan(asks(8, per_image=8)[:3])[0]
    _, state, _ = generator._start(batch, generator._crops(batch))
    assert (state.cache is None) == (way == "static")
    prompts = [(whole, ends) for whole, ends in zip(*tokens.values(), strict=True) if whole > len(batch.items)]
    assert [ends for _, ends in prompts] == [len(batch.leaders), len(batch.items)]
    assert all(whole > 3 * ends for whole, ends in prompts)


@pytest.mark.parametrize("way", ["dynamic", "static"])
def test_a_zoom_that_reads_the_question_answers_as_one_by_one(way):
    model = tiny_model(seed=3, zoom={"score": "question"}).eval()
    expected = {request.id: alone(model, request) for request in asks(12)}
    assert ask_all(BatchGenerator(model, PROCESSOR, batch_tokens=2000, decoding=way), asks(12)) == expected


@pytest.mark.parametrize("way", ["dynamic", "static"])
@pytest.mark.parametrize("text", [{"model_type": "qwen3"}, {"model_type": "mistral", "sliding_window": 180}])
def test_other_language_models_answer_as_one_by_one(text, way):
    model = tiny_model(seed=3, text=text).eval()
    expected = {request.id: alone(model, request) for request in asks(9)}
    assert ask_all(BatchGenerator(model, PROCESSOR, batch_tokens=2000, decoding=way), asks(9)) == expected


def test_rows_in_sizes_and_words_a_step_late_are_the_same_answers(model, monkeypatch):
    """What a GPU does, on a CPU: rows that are nobody's, words read a step later, rows that move together."""
    expected = {request.id: alone(model, request) for request in asks()}
    monkeypatch.setattr(decoding, "IN_SIZES", ("cpu",))
    monkeypatch.setattr(decoding, "WORTH_MOVING", 1)
    begin = LateReads.__init__

    def late(self, device):
        begin(self, device)
        self.lag = 1

    monkeypatch.setattr(LateReads, "__init__", late)
    assert ask_all(BatchGenerator(model, PROCESSOR, batch_tokens=3000), asks()) == expected


def test_an_image_is_computed_once_for_all_its_questions(model):
    seen = []
    hook = model.vision.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    same = [
        GenerationRequest(id=str(i), prompt=f"{i}?", image_keys=("a",), read_images=lambda: (picture(1),))
        for i in range(10)
    ]
    ask_all(BatchGenerator(model, PROCESSOR), same)
    hook.remove()
    assert sum(seen) == model.config.layout.zoom.num_crops


def test_the_plan_is_longest_first_and_within_the_budget(model):
    generator = BatchGenerator(model, PROCESSOR, batch_tokens=2500)
    batches = generator.plan(asks(60))
    assert sorted(i.request.id for b in batches for i in b.items) == sorted(a.id for a in asks(60))
    image = model.config.layout.num_tokens
    sizes = []
    for batch in batches:
        images = {len(item.request.image_keys) for item in batch.items}
        assert len(images) == 1
        width = (
            images.pop() * image
            + max(len(i.text) for i in batch.items)
            + max(i.request.max_new_tokens for i in batch.items)
        )
        assert len(batch.items) * width <= 2500
        sizes.append(len(batch.items[0].request.image_keys))
    assert sizes == sorted(sizes, reverse=True)


def test_where_the_model_looked_comes_with_the_answer(model):
    generator = BatchGenerator(model, PROCESSOR)
    outputs = {r.id: r for outputs in generator.answer(generator.plan(asks())) for r in outputs}
    assert outputs["q3"].zoom is None
    assert len(outputs["q5"].zoom) == 2
    zoom = model.config.layout.zoom
    for seen in outputs["q0"].zoom:
        assert len(seen["kept"]) == zoom.num_high_kept
        assert seen["high"][0] * seen["high"][1] == zoom.high_crops


def test_drawn_answers_depend_on_the_seed_and_not_on_the_batch(model):
    def drawn(**kw):
        return ask_all(BatchGenerator(model, PROCESSOR, temperature=1.0, **kw), asks(8))

    assert drawn(batch_tokens=1) == drawn(batch_tokens=9000)
    assert drawn() != drawn(seed=1)


def test_a_question_beyond_the_context_is_named(model):
    limit = model.config.text_config.max_position_embeddings
    with pytest.raises(ValueError, match=rf"question long: .*context is {limit}"):
        BatchGenerator(model, PROCESSOR).plan([GenerationRequest(id="long", prompt="a" * limit)])


def test_a_broken_image_is_named(model):
    generator = BatchGenerator(model, PROCESSOR)
    broken = GenerationRequest(id="q9", prompt="?", image_keys=("x",), read_images=lambda: (b"no image",))
    with pytest.raises(ValueError, match="question q9: image of 8 bytes cannot be opened"):
        list(generator.answer(generator.plan([broken])))


IN_PLACE = DragonflyProcessor(DragonflyImageProcessor.of(tiny_config().layout), tiny_tokenizer(), images="in_place")


def placed_asks() -> list[GenerationRequest]:
    """Every third question has its images between its words; others share theirs, in front of their words."""
    return [
        replace(ask, places=(3,) * len(ask.image_keys)) if i % 3 == 0 and ask.image_keys else ask
        for i, ask in enumerate(replace(each, prompt=f"abcd {each.prompt}") for each in asks())
    ]


def test_questions_with_images_in_place_are_answered_as_alone(model):
    requests = placed_asks()
    generator = BatchGenerator(model, IN_PLACE, batch_tokens=3000)
    batches = generator.plan(requests)
    assert max(len(batch.items) for batch in batches) > 1
    assert any(len(batch.leaders) < len(batch.items) for batch in batches), "images in front of the words are shared"
    found = {output.id: output.text for outputs in generator.answer(batches) for output in outputs}
    for request in requests:
        turn = Turn(role="user", text=request.prompt, num_images=len(request.image_keys), places=request.places)
        images = [decode(data) for data in request.read_images()]
        inputs = IN_PLACE(text=[IN_PLACE.question_text(turn)], images=[images or None])
        (item,) = [i for batch in batches for i in batch.items if i.request.id == request.id]
        assert inputs["input_ids"][0].tolist() == item.text.ids
        out = model.generate(**inputs, do_sample=False, max_new_tokens=request.max_new_tokens)
        said = IN_PLACE.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert found[request.id] == said, request.id


@pytest.mark.parametrize(
    ("prompt", "num_images", "expected"),
    [
        ("See <image 1>. What?", 1, ("See . What?", (4,), [0])),
        ("<image 2> or <image 1>?", 2, (" or ?", (0, 4), [1, 0])),
        ("<image 1> a <image 3> b <image 1>", 2, (" a  b <image 1>", (0, 3), [0, 1])),
        ("What?", 1, ("What?", (), [0])),
        ("<image 1> What?", 2, ("<image 1> What?", (), [0, 1])),
    ],
)
def test_numbered_images_stand_where_they_are_first_named(prompt, num_images, expected):
    assert placed(prompt, num_images) == expected
