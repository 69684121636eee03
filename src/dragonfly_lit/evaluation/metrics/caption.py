"""Captions and reports: BLEU, ROUGE-L and CIDEr-D by the scorers of coco-caption, METEOR by nltk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score
from dragonfly_lit.evaluation.parsers_caption import caption_words
from dragonfly_lit.evaluation.question import Question

ORDERS = (1, 2, 3, 4)


@lru_cache(maxsize=1)
def _coco() -> dict[str, Any]:
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer, cook_refs, cook_test
        from pycocoevalcap.cider.cider_scorer import CiderScorer
        from pycocoevalcap.rouge.rouge import Rouge
    except ModuleNotFoundError as error:
        raise ValueError("caption metrics need pycocoevalcap: pip install 'dragonfly_lit[eval]'.") from error
    return {
        "BleuScorer": BleuScorer,
        "cook_refs": cook_refs,
        "cook_test": cook_test,
        "CiderScorer": CiderScorer,
        "rouge": Rouge(),
    }


class _NoSynonyms:
    """Stands for WordNet where its data is not installed."""

    def synsets(self, word: str) -> list[Any]:
        """No synonyms."""
        return []


@lru_cache(maxsize=1)
def _synonyms() -> tuple[str, Any]:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return "meteor_nltk_no_wordnet", _NoSynonyms()
    return "meteor_nltk", wordnet


def bleu_statistics(prediction: str, references: Sequence[str]) -> list[int]:
    """What corpus BLEU sums of one caption: its length, the closest reference's, and guesses and hits by order."""
    coco = _coco()
    cooked = coco["cook_test"](prediction, coco["cook_refs"](list(references)), eff="closest")
    return [cooked["testlen"], cooked["reflen"], *cooked["guess"], *cooked["correct"]]


def corpus_bleu(statistics: Sequence[Sequence[float]]) -> list[float]:
    """BLEU-1 to 4 of a corpus, from the statistics of its captions."""
    scorer = _coco()["BleuScorer"](n=len(ORDERS))
    for length, closest, *counts in statistics:
        scorer.ctest.append(
            {"testlen": length, "reflen": [closest], "guess": counts[: len(ORDERS)], "correct": counts[len(ORDERS) :]}
        )
        scorer.crefs.append(None)
    return scorer.compute_score(option="closest")[0]


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L with beta 1.2, the best precision and the best recall over the references taken apart."""
    return float(_coco()["rouge"].calc_score([prediction], list(references)))


class CiderD:
    """CIDEr-D of single captions against a corpus of references, whose document frequencies weigh the n-grams."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        scorer = _coco()["CiderScorer"]()
        for members in references:
            scorer.cook_append(None, list(members))
        scorer.compute_doc_freq()
        self.scorer, self.cooked = scorer, scorer.crefs

    def score(self, prediction: str, row: int) -> float:
        """CIDEr-D, 0 to 10, of a caption for the document `row`."""
        one = _coco()["CiderScorer"](test=prediction, refs=[])
        # The number of references sets the scale, and the caption is compared with the first: put its own in front.
        one.crefs = [self.cooked[row], *self.cooked[:row], *self.cooked[row + 1 :]]
        one.document_frequency = self.scorer.document_frequency
        return float(one.compute_cider()[0])


def meteor_nltk(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR as nltk computes it; without synonyms where WordNet's data is not installed."""
    from nltk.translate.meteor_score import meteor_score

    return float(meteor_score([list(words) for words in references], list(prediction), wordnet=_synonyms()[1]))


class Captions(QuestionMetric):
    """ROUGE-L, METEOR, CIDEr-D and BLEU-1 to 4 over a corpus of captions.

    All are fractions, CIDEr-D up to 10. METEOR is `meteor_nltk`, or `meteor_nltk_no_wordnet` where WordNet's data is
    not installed; it is not the METEOR 1.5 of coco-caption.
    """

    columns = (
        "rouge_l",
        "meteor",
        "cider_d",
        "length",
        "closest",
        *(f"guess_{n}" for n in ORDERS),
        *(f"correct_{n}" for n in ORDERS),
        "num_empty",
    )

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__(questions)
        self.references = [[" ".join(caption_words(answer)) for answer in q.references] for q in self.questions]
        self.cider = CiderD(self.references)

    def score(self, prediction: str, question: Question) -> Score:
        """The caption's own scores; ROUGE-L is the score of the question."""
        row = self.rows[question.id]
        words, references = caption_words(prediction), self.references[row]
        text = " ".join(words)
        rouge = rouge_l(text, references)
        counts = bleu_statistics(text, references)
        names = self.columns[3:-1]
        return Score(
            parsed=text or None,
            score=rouge,
            lenient_parsed=text or None,
            lenient_score=rouge,
            values={
                "rouge_l": rouge,
                "meteor": meteor_nltk(words, [reference.split() for reference in references]),
                "cider_d": self.cider.score(text, row),
                "num_empty": float(not text),
                **dict(zip(names, map(float, counts), strict=True)),
            },
        )

    def top(self, name: str) -> float | None:
        """1 of ROUGE-L; the others depend on the lengths and the words of the captions."""
        return super().top(name) if name == "rouge_l" else None

    def summarise(self) -> dict[str, float]:
        """Means of ROUGE-L, METEOR and CIDEr-D; BLEU of the corpus."""
        scores = super().summarise()
        first = self.columns.index("length")
        bleu = corpus_bleu([row[first:-1] for row in self.values.tolist()])
        return {
            "rouge_l": scores["rouge_l"],
            _synonyms()[0]: scores["meteor"],
            "cider_d": scores["cider_d"],
            **{f"bleu_{n}": value for n, value in zip(ORDERS, bleu, strict=True)},
            "num_empty": scores["num_empty"],
        }
