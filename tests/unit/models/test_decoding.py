"""Decoding in place: the words of a growing cache, whoever ends first; and a line instead of a failure."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any, cast

import pytest
import torch
from PIL import Image
from talkative import talkative_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import CompileConfig
from transformers.cache_utils import DynamicCache

from dragonfly_lit.models import decoding, generation
from dragonfly_lit.models.decoding import InPlaceDecoder
from dragonfly_lit.models.host_reads import LateReads
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.processing.prompts import question_text

QUESTIONS = ("What is it?", "Tell me a story about a dog and a fox.", "Why?", "Which of the two is larger?")


@pytest.fixture(scope="module")
def talker():
    return talkative_model()


@pytest.fixture(scope="module")
def inputs(talker):
    """Rows of different lengths with one image, none, two and one."""
    processor = DragonflyProcessor(DragonflyImageProcessor.of(talker.layout), tiny_tokenizer())
    torch.manual_seed(0)
    pictures = [
        Image.fromarray(torch.randint(0, 256, (40, 60 + 30 * i, 3), dtype=torch.uint8).numpy()) for i in range(4)
    ]
    images = [pictures[:1], None, pictures[1:3], pictures[3:]]
    return processor(text=[question_text(q) for q in QUESTIONS], images=images, return_tensors="pt")


@pytest.fixture
def steps(monkeypatch):
    """How many steps were decoded in place."""
    taken = []
    step = InPlaceDecoder.step
    monkeypatch.setattr(InPlaceDecoder, "step", lambda self, words: (taken.append(1), step(self, words))[1])
    return taken


@pytest.fixture(params=[0, 1], ids=["at once", "a step late"])
def lag(request, monkeypatch):
    """The host reads words at once, as on a CPU, or a step later, as on a GPU."""
    begin = LateReads.__init__

    def late(self, device):
        begin(self, device)
        self.lag = request.param

    monkeypatch.setattr(LateReads, "__init__", late)
    return request.param


@pytest.fixture(params=[(), ("cpu",)], ids=["exact", "in sizes"])
def sizes(request, monkeypatch):
    """Rows and places as many as there are, as on a CPU, or of a few sizes, as on a GPU."""
    monkeypatch.setattr(decoding, "IN_SIZES", request.param)


class Words:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.seen, self.ended = [], False

    def put(self, words) -> None:
        self.seen.append(words.tolist())

    def end(self) -> None:
        self.ended = True


def generated(model, inputs, way, **options):
    torch.manual_seed(7)
    options = {"max_new_tokens": 12, "do_sample": False} | options
    return model.generate(**inputs, cache_implementation=way, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eos_token_id": [88, 97, 258]},
        {"do_sample": True},
        {"do_sample": True, "num_return_sequences": 2, "temperature": 0.7},
        {"repetition_penalty": 1.4, "min_new_tokens": 4},
        {"max_new_tokens": 2},
    ],
)
def test_words_in_place_are_those_of_a_growing_cache(talker, inputs, steps, lag, sizes, options):
    expected = generated(talker, inputs, "dynamic", **options)
    assert not steps
    found = generated(talker, inputs, "static", **options)
    assert torch.equal(found, expected)
    new = expected.shape[1] - inputs["input_ids"].shape[1]
    late = lag if new < options.get("max_new_tokens", 12) else 0
    assert len(steps) == new - 1 + late


def test_all_rows_that_end_early_end_generation(talker, inputs, lag):
    free = generated(talker, inputs, "dynamic")
    ends = [int(word) for word in free[:, inputs["input_ids"].shape[1] + 3]]
    found = generated(talker, inputs, "static", eos_token_id=ends, pad_token_id=258)
    assert torch.equal(found, generated(talker, inputs, "dynamic", eos_token_id=ends, pad_token_id=258))
    assert inputs["input_ids"].shape[1] < found.shape[1] <= inputs["input_ids"].shape[1] + 4


def test_a_streamer_gets_every_word_and_no_more(talker, inputs, lag):
    one = {"input_ids": torch.tensor([[7, 8, 9, 10]])}
    free = generated(talker, one, "dynamic")
    streamer = Words()
    found = generated(talker, one, "static", streamer=streamer, eos_token_id=int(free[0, 9]))
    prompt, *words = streamer.seen
    assert torch.tensor(prompt).flatten().tolist() == found[0, :4].tolist()
    assert [word for (word,) in words] == found[0, 4:].tolist()
    assert streamer.ended


def test_word_embeddings_for_a_prompt(talker, steps):
    embeddings = talker.get_input_embeddings()(torch.tensor([[7, 8, 9, 10], [3, 3, 11, 12]])).detach()
    given = {"inputs_embeds": embeddings, "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])}
    expected, found = (generated(talker, given, way) for way in ("dynamic", "static"))
    assert torch.equal(found, expected)
    assert len(steps) == 11


def test_a_cpu_goes_in_place_only_when_asked(talker, inputs, steps):
    generated(talker, inputs, None)
    assert not steps


def test_what_needs_every_output_goes_transformers_way(talker, inputs, steps):
    expected = generated(talker, inputs, "dynamic", num_beams=2)
    assert torch.equal(generated(talker, inputs, "static", num_beams=2), expected)
    scores = generated(talker, inputs, "static", return_dict_in_generate=True, output_scores=True).scores
    assert len(scores) == 12
    assert not steps


def test_later_batches_reuse_the_step_and_weights_put_elsewhere_need_another(monkeypatch):
    monkeypatch.setattr(decoding, "IN_SIZES", ("cpu",))
    model = tiny_model()
    ids = {"input_ids": torch.tensor([[7, 8, 9, 10]])}
    tried = []
    capture = InPlaceDecoder._capture

    class Counting(InPlaceDecoder):
        def _capture(self, places):
            tried.append(places.mask.shape)
            return capture(self, places)

    generation._DECODERS[model] = Counting(model)
    for _ in range(2):
        generated(model, ids, "static")
    assert tried == [(1, decoding.PLACES)]
    other = tiny_model(seed=9)
    model.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(generated(model, ids, "static"), generated(other, ids, "dynamic"))
    assert len(tried) == 2
    longer = {"input_ids": torch.randint(0, 200, (3, decoding.PLACES))}
    assert torch.equal(generated(model, longer, "static"), generated(model, longer, "dynamic"))
    assert tried[2:] == [(3, 2 * decoding.PLACES)]


def test_training_gets_the_memory_back_and_a_lost_model_is_not_kept():
    model = tiny_model()
    generated(model, {"input_ids": torch.tensor([[7, 8]])}, "static")
    decoder = generation._DECODERS[model]
    assert decoder._buffers is not None
    model.train()
    assert model not in generation._DECODERS
    assert decoder._buffers is None
    model.eval()
    generated(model, {"input_ids": torch.tensor([[7, 8]])}, "static")
    lost = weakref.ref(model)
    del model, decoder
    gc.collect()
    assert lost() is None


@pytest.mark.parametrize("failing", ["memory", "attention", "hook", "window"])
def test_what_cannot_be_done_in_place_is_said_in_one_line_and_done_otherwise(monkeypatch, caplog, failing, steps):
    text = {"model_type": "mistral", "sliding_window": 10} if failing == "window" else {}
    model = tiny_model(text=text)
    ids = {"input_ids": torch.tensor([[7, 8, 9, 10]])}
    expected = generated(model, ids, "dynamic")
    if failing == "memory":

        def none_left(*_):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 5 GiB")

        monkeypatch.setattr(decoding, "Buffers", none_left)
    elif failing == "attention":
        monkeypatch.setattr(decoding.Places, "write", lambda *_: 1 / 0)
    elif failing == "hook":
        cast(nn.ModuleList, model.get_decoder().layers)[0].register_forward_hook(lambda *_: None)
    with caplog.at_level(logging.WARNING):
        found = [generated(model, ids, "static") for _ in range(2)]
    assert all(torch.equal(one, expected) for one in found)
    lines = [record.getMessage() for record in caplog.records if record.name == decoding.__name__]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    said = {
        "memory": "no memory is left",
        "attention": "division by zero",
        "hook": "hooks",
        "window": "sliding_window=10",
    }
    assert said[failing] in lines[0]
    assert not steps


def cache_of(model, ids, mask):
    cache = DynamicCache(config=model.config.text_config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=ids, attention_mask=mask.long(), position_ids=positions, past_key_values=cache, use_cache=True
    )
    return cache, positions[:, -1] + 1, output.logits[:, -1]


@torch.no_grad()
def test_rows_that_go_on_move_together_and_keep_their_words(monkeypatch, sizes):
    monkeypatch.setattr(decoding, "WORTH_MOVING", 1)
    model = tiny_model(seed=3)
    ids, mask = torch.randint(0, 200, (5, 9)), torch.ones(5, 9, dtype=torch.bool)
    mask[1, :4] = mask[3, :7] = False
    cache, position, logits = cache_of(model, ids, mask)
    decoder = InPlaceDecoder(model)
    assert decoder.start(cache, mask, position, 8)
    words = [logits.argmax(-1)]
    for _ in range(3):
        words.append(decoder.step(words[-1]).argmax(-1))
    assert not decoder.keep([0, 1, 2, 3, 4])
    assert decoder.keep([1, 3])
    found = [torch.stack([step[1], step[3]]) for step in words]
    for _ in range(5):
        found.append(decoder.step(found[-1]).argmax(-1))
    for row, column in ((1, 0), (3, 1)):
        prompt = {"input_ids": ids[row, mask[row]][None]}
        alone = generated(model, prompt, "dynamic", max_new_tokens=9, eos_token_id=None)
        # A slot is never generated by `generate`; this model would not.
        assert alone[0, int(mask[row].sum()) :].tolist() == [int(step[column]) for step in found]


@pytest.mark.parametrize(
    ("rows", "rounded"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 8), (9, 12), (13, 16), (33, 48)]
)
def test_rows_come_in_a_few_sizes(rows, rounded):
    assert decoding._rounded(rows) == rounded


class WithoutCuda(TorchFunctionMode):
    """Basic indexing and copies by their shapes: torch's own ask for a guard of the device, which CPU builds lack."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.copy_:
            return self.copied(*args)
        if func is torch.Tensor.__getitem__:
            return self.seen(*args)
        if func is torch.Tensor.__setitem__:
            return self.copied(self.seen(*args[:2]), args[2])
        return func(*args, **(kwargs or {}))

    def copied(self, tensor, source):
        assert tensor.is_cuda == source.is_cuda, "the host waits for the device"
        assert torch.broadcast_shapes(tensor.shape, source.shape) == tensor.shape
        return tensor

    def seen(self, tensor, index):
        index = index if isinstance(index, tuple) else (index,)
        if ... in index:
            place, missing = index.index(...), tensor.ndim - sum(part is not None for part in index) + 1
            index = (*index[:place], *[slice(None)] * missing, *index[place + 1 :])
        axis = 0
        for part in index:
            if part is None:
                tensor = tensor.unsqueeze(axis)
            elif isinstance(part, slice):
                start, end, _ = part.indices(tensor.shape[axis])
                tensor = tensor.narrow(axis, start, end - start)
            else:
                tensor, axis = tensor.select(axis, part), axis - 1
            axis += 1
        return tensor


def test_a_step_on_a_gpu_keeps_to_its_dtypes_and_never_waits():
    """By the rules of CUDA's kernels, without one: a wait for the device would need a value that is not there."""
    model = tiny_model()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), WithoutCuda():
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                empty = torch.empty(weight.shape, dtype=torch.bfloat16, device="cuda")
                setattr(module, name, nn.Parameter(empty, requires_grad=False))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))
        cache = DynamicCache(config=model.config.text_config)
        for layer in range(model.config.text_config.num_hidden_layers):
            keys = torch.zeros(3, 2, 300, 12, dtype=torch.bfloat16, device="cuda")
            cache.update(keys, keys, layer)
        decoder = InPlaceDecoder(model)
        decoder._make_room(cache, 3, 512)
        assert decoder._buffers is not None
        places = decoder._buffers.seen_as(3, 512)
        with decoder._in_place():
            ones = torch.ones(3, 300, dtype=torch.bool, device="cuda")
            decoding.fill(places, cache, ones, ones.sum(1))
            decoder._run(places)
    assert places.logits.shape == (3, model.config.text_config.vocab_size)
    assert (places.logits.device.type, places.logits.dtype) == ("cuda", torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_graphs_of_a_gpu_say_the_words_of_a_growing_cache(inputs, caplog, compiled, unchecked):
    model: Any = talkative_model()
    model.to("cuda")
    given = {name: value.to("cuda") for name, value in inputs.items()}
    options: dict[str, Any] = {"max_new_tokens": 24}
    expected = generated(model, given, "dynamic", **options)
    if compiled:
        options["compile_config"] = CompileConfig()
    with caplog.at_level(logging.WARNING, logger=decoding.__name__):
        found = [generated(model, given, None, **options) for _ in range(2)]
    assert not caplog.records
    assert all(torch.equal(one, expected) for one in found)
    ((_, replay),) = generation._DECODERS[model]._steps.values()
    assert isinstance(cast("Any", replay).__self__, torch.cuda.CUDAGraph)


@pytest.mark.gpu
@torch.no_grad()
def test_rows_of_a_gpu_move_together_with_graphs_of_their_own(monkeypatch):
    monkeypatch.setattr(decoding, "WORTH_MOVING", 1)
    model: Any = talkative_model()
    model.to("cuda")
    ids, mask = torch.randint(0, 200, (6, 9)).cuda(), torch.ones(6, 9, dtype=torch.bool, device="cuda")
    mask[1, :4] = mask[3, :7] = False
    cache, position, logits = cache_of(model, ids, mask)
    decoder = InPlaceDecoder(model)
    assert decoder.start(cache, mask, position, 8)
    words = [logits.argmax(-1)]
    for _ in range(3):
        words.append(decoder.step(words[-1]).argmax(-1))
    assert decoder.keep([1, 3])
    found = [step[[1, 3]] for step in words]
    for _ in range(5):
        found.append(decoder.step(found[-1]).argmax(-1))
    for row, column in ((1, 0), (3, 1)):
        prompt = {"input_ids": ids[row, mask[row]][None]}
        alone = generated(model, prompt, "dynamic", max_new_tokens=9, eos_token_id=None)
        assert alone[0, int(mask[row].sum()) :].tolist() == [int(step[column]) for step in found]
