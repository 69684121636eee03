"""BERTScore against the authors' package, whose functions are loaded by path, and against its formula."""

import random
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from dragonfly_lit.app import evaluate as app
from dragonfly_lit.evaluation.metrics.base import Scoring, check_scoring
from dragonfly_lit.evaluation.metrics.bertscore import BertScore
from dragonfly_lit.evaluation.metrics.caption import Captions
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.evaluation.question import Question

CONF = Path(__file__).resolve().parents[3] / "conf"

WORDS = "the a heart lung is clear mass left right lobe of in no effusion ##s un ##seen . , -".split()  # noqa: SIM905
LAYERS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random BERT of three layers and 64 places."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place = tmp_path_factory.mktemp("bert")
    (place / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    BertTokenizerFast(vocab=str(place / "vocab.txt"), model_max_length=64).save_pretrained(place)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(place)
    return place


def captions(seed: int, num: int) -> list[str]:
    draw = random.Random(seed)
    made = [
        " ".join(draw.choices(["The", "heart", "lungs", "unseen", "odd", "left", ".", "no"], k=n % 9))
        for n in range(num)
    ]
    return [*made, "", "  ", "lungs " * 200, "\u00a0the\u00a0", "left"]


@pytest.mark.parametrize("layer", [1, 2, None])
def test_numbers_are_those_of_the_authors_package(bert_score_utils, folder, layer):
    ours = BertScore(folder, layer)
    tokenizer, model = ours.tokenizer, ours.model
    marks = tokenizer.cls_token_id, tokenizer.sep_token_id
    tokenizer.build_inputs_with_special_tokens = lambda ids: [marks[0], *ids, marks[1]]  # of an empty text; gone by now
    kept = model.encoder.layer
    idf = defaultdict(lambda: 1.0, {tokenizer.sep_token_id: 0, tokenizer.cls_token_id: 0})
    said, meant = captions(1, 60), captions(2, 60)[::-1]
    found = [[*ours.score(one, [other]).values()] for one, other in zip(said, meant, strict=True)]
    try:
        model.encoder.layer = kept[: layer or LAYERS]
        theirs = bert_score_utils.bert_cos_score_idf(model, meant, said, tokenizer, idf, batch_size=1, device="cpu")
    finally:
        model.encoder.layer = kept
    torch.testing.assert_close(torch.tensor(found), theirs, rtol=1e-5, atol=1e-6)


def test_the_best_reference_counts_and_an_equal_caption_gets_one(folder):
    bert = BertScore(folder)
    alone = [bert.score("the heart is clear", [one]) for one in ("left lobe", "a mass . ", "the heart")]
    together = bert.score("the heart is clear", ["left lobe", "a mass . ", "the heart"])
    assert together == {name: max(one[name] for one in alone) for name in together}
    assert [*bert.score("the heart", ["a lung", "the heart"]).values()] == pytest.approx([1, 1, 1], abs=1e-6)
    assert [*bert.score("", ["the heart"]).values()] == [0, 0, 0]


def test_captions_have_it_beside_their_other_scores(folder):
    questions = [Question(id=str(n), task="captions", text="?", references=("the heart", "a mass")) for n in range(3)]
    metric = Captions(questions)
    assert "bertscore_f1" not in _computed(Captions(questions), questions)
    metric.take(Scoring(bertscore_model=folder, bertscore_layer=2))
    scores = _computed(metric, questions)
    assert scores["bertscore_f1"] == pytest.approx(1.0, abs=1e-6)
    assert metric.rule == f"{Captions(questions).rule}; BERTScore by layer 2 of {LAYERS} of {folder.name}"
    assert "Penn Treebank words" in metric.rule


def _computed(metric: Captions, questions: list[Question]) -> dict[str, float]:
    for question in questions:
        metric.update("a mass", question)
    return metric.compute()


def test_what_is_no_model_is_an_error_of_one_line(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for place, layer, said in (
        (tmp_path / "none", None, "nothing is downloaded"),
        (tmp_path, None, "transformers cannot load it"),
        (folder, LAYERS + 1, f"has the layers 1 to {LAYERS}"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            BertScore(place, layer)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"bertscore\.layer=2 is of no model"):
        Scoring(bertscore_layer=2)


def test_the_model_is_where_it_is_asked_for(folder):
    metric = Captions([])
    metric.take(Scoring(bertscore_model=folder, bertscore_device="meta"))
    assert metric.bert is not None
    assert {weight.device.type for weight in metric.bert.model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("rank", "device", "where"), [("3", "auto", "cuda:3"), ("1", "cuda", "cuda:1"), ("1", "cpu", "cpu")]
)
def test_every_rank_has_its_own_on_its_device(folder, monkeypatch, rank, device, where):
    seen = []
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(app, "usable_device", lambda name, key: name)  # as where there are so many
    monkeypatch.setattr(app, "_show", lambda benchmark, settings: seen.append(settings.metrics))
    with initialize_config_dir(str(CONF), version_base=None):
        given = ["benchmark=roco", "benchmark.show=1", f"bertscore.model={folder}", f"device={device}"]
        app.evaluate(compose("evaluate", given))
    assert [each.bertscore_device for each in seen] == [where]


@pytest.mark.parametrize("given", [{"caption_metrics": "java"}, {"bertscore_model": "models/bert"}])
def test_what_only_captions_take_is_refused_where_there_are_none(given, monkeypatch):
    monkeypatch.setattr(Captions, "check", lambda scoring: None)
    check_scoring([ExactMatch, Captions], Scoring(**given))
    check_scoring([ExactMatch], Scoring())
    with pytest.raises(ValueError, match=r"(caption_metrics=java|bertscore\.model=models/bert): no caption is scored"):
        check_scoring([ExactMatch], Scoring(**given))
