"""Caption metrics against pycocoevalcap over whole corpora, and against scorers that share no code with it."""

import random

import pytest

from dragonfly_lit.evaluation.benchmarks.captions import METEORS
from dragonfly_lit.evaluation.metrics import caption
from dragonfly_lit.evaluation.metrics.caption import Captions, CiderD, corpus_bleu, meteor_nltk, rouge_l
from dragonfly_lit.evaluation.parsers_caption import caption_words
from dragonfly_lit.evaluation.question import Question

bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
cider = pytest.importorskip("pycocoevalcap.cider.cider")
rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
VOCABULARY = "the a heart lung is are normal clear mass left right lobe of in no effusion small large cat".split()  # noqa: SIM905


def sentence(draw: random.Random, longest: int = 14) -> str:
    return " ".join(draw.choices(VOCABULARY, k=draw.randint(1, longest)))


def corpus(seed: int, size: int = 40) -> tuple[list[str], list[list[str]]]:
    """Predictions, some of them equal or near to a reference, and one to three references each."""
    draw = random.Random(seed)
    references = [[sentence(draw) for _ in range(draw.randint(1, 3))] for _ in range(size)]
    predictions = []
    for members in references:
        words = draw.choice(members).split()
        kind = draw.randrange(5)
        near = words[: draw.randint(1, len(words))] + draw.choices(VOCABULARY, k=draw.randint(0, 3))
        predictions.append([" ".join(words), " ".join(near), sentence(draw), "unseen words only", ""][kind])
    return predictions, references


def scored(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    questions = [
        Question(id=str(i), task="captions", text="Describe the image.", references=tuple(members))
        for i, members in enumerate(references)
    ]
    metric = Captions(questions)
    for prediction, question in zip(predictions, questions, strict=True):
        metric.update(prediction, question)
    return metric.compute()


@pytest.mark.parametrize("seed", range(12))
def test_corpus_scores_are_those_of_coco_caption(seed):
    predictions, references = corpus(seed)
    ours = scored(predictions, references)
    gts = {i: members for i, members in enumerate(references)}
    res = {i: [prediction] for i, prediction in enumerate(predictions)}
    theirs, _ = bleu.Bleu(4).compute_score(gts, res, verbose=0)
    assert [ours[f"bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(theirs, rel=1e-12)
    assert ours["rouge_l"] == pytest.approx(float(rouge.Rouge().compute_score(gts, res)[0]), rel=1e-12)
    assert ours["cider_d"] == pytest.approx(float(cider.Cider().compute_score(gts, res)[0]), rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_bleu_is_that_of_sacrebleu(seed):
    sacrebleu = pytest.importorskip("sacrebleu")
    predictions, references = corpus(seed)
    width = max(map(len, references))
    streams = [[members[i] if i < len(members) else None for members in references] for i in range(width)]
    theirs = sacrebleu.corpus_bleu(predictions, streams, smooth_method="none", tokenize="none", force=True)
    assert 100 * scored(predictions, references)["bleu_4"] == pytest.approx(theirs.score, rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_rouge_l_follows_from_precision_and_recall_of_rouge_score(seed):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    predictions, references = corpus(seed)
    for prediction, members in zip(predictions, references, strict=True):
        parts = [scorer.score(reference, prediction)["rougeL"] for reference in members]
        precision, recall = (max(getattr(part, name) for part in parts) for name in ("precision", "recall"))
        beta = 1.2**2
        expected = (1 + beta) * precision * recall / (recall + beta * precision) if precision and recall else 0.0
        if prediction:
            assert rouge_l(prediction, members) == pytest.approx(expected, rel=1e-12)


def test_meteor_follows_from_its_formula():
    pytest.importorskip("nltk")
    four = "large clear lung mass".split()  # noqa: SIM905
    assert meteor_nltk(four, [four]) == pytest.approx(1 - 0.5 / 4**3), "one chunk of four matches"
    precision, recall = 1, 2 / 3
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    assert meteor_nltk(["the", "cat"], [["the", "cat", "sat"]]) == pytest.approx(mean * (1 - 0.5 * (1 / 2) ** 3))
    assert meteor_nltk(["lungs"], [["mass"], ["lung"]]) == pytest.approx(0.5), "stems match; the best reference counts"
    assert meteor_nltk([], [["the"]]) == 0


@pytest.mark.parametrize("installed", [True, False])
def test_meteor_is_named_after_what_it_was_computed_with(monkeypatch, installed):
    """Without WordNet's data it knows no synonyms, gives lower scores, and says so by its name."""

    class Wordnet:
        def ensure_loaded(self):
            if not installed:
                raise LookupError("wordnet")

        def synsets(self, word):
            return [Synset()] if word in ("mass", "tumour") else []

    class Synset:
        def lemmas(self):
            return [Lemma("mass"), Lemma("tumour")]

    class Lemma:
        def __init__(self, name):
            self.name = lambda: name

    monkeypatch.setattr(pytest.importorskip("nltk.corpus"), "wordnet", Wordnet())
    caption._synonyms.cache_clear()
    try:
        scores = scored(["a large mass"], [["a large tumour"]])
    finally:
        caption._synonyms.cache_clear()
    assert [name for name in scores if name in METEORS] == [METEORS[not installed]]
    assert (scores[METEORS[not installed]] > 0.9) == installed, "a synonym matches where synonyms are known"


def test_worked_cases_of_the_published_rules():
    assert rouge_l("the cat", ["the cat sat"]) == pytest.approx(0.772, abs=5e-4)
    one = CiderD([["the heart is normal in size"]])
    assert one.score("the heart is normal in size", 0) == 0, "the logarithm of one document is 0"
    two = CiderD([["the heart is normal in size"], ["a mass of the left lobe"]])
    assert two.score("a mass of the left lobe", 1) == pytest.approx(10)
    short = CiderD([["a mass"], ["the heart"]])
    assert short.score("a mass", 0) == pytest.approx(5), "two of the four orders exist"
    assert corpus_bleu([[0.0, 5.0] + [0.0] * 8]) == pytest.approx([0, 0, 0, 0], abs=1e-8)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("The heart size is normal. No pneumothorax.", "the heart size is normal no pneumothorax"),
        ("Chest x-ray (PA view), 3.5 x 2.1 cm", "chest x-ray -lrb- pa view -rrb- 3.5 x 2.1 cm"),
        ("There isn't any; the patient's lungs", "there is n't any the patient 's lungs"),
        ('Don\'t see "free air" -- normal: chest!', "do n't see free air normal chest"),
        ("It measures 3,000 ml, 95% at 10:30 a.m.", "it measures 3,000 ml 95 % at 10:30 a.m."),
        ("Dr. Smith vs. others, cannot exclude...", "dr. smith vs. others can not exclude"),
        ("", ""),
    ],
)
def test_words_of_a_caption_are_those_of_the_java_tokeniser(caption, words):
    """The right-hand sides were computed by the tokeniser that pycocoevalcap ships."""
    assert " ".join(caption_words(caption)) == words
