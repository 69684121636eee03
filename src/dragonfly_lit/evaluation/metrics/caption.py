"""Captions and reports: BLEU, ROUGE-L and CIDEr-D by the scorers of coco-caption, METEOR by nltk or by its Java."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from dragonfly_lit.evaluation import java
from dragonfly_lit.evaluation.metrics import bertscore
from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, Scoring, total
from dragonfly_lit.evaluation.parsers_caption import caption_words
from dragonfly_lit.evaluation.question import Question

ORDERS = (1, 2, 3, 4)
BLEU = ("length", "closest", *(f"guess_{n}" for n in ORDERS), *(f"correct_{n}" for n in ORDERS))
METEOR = tuple(f"meteor_{n}" for n in range(java.NUM_STATISTICS))
BERTSCORE = bertscore.NAMES
"""Columns: what BLEU and METEOR 1.5 sum over a corpus, and BERTScore."""
WORDS = "none: Penn Treebank words in lower case, without punctuation"
JAVA = "coco-caption's Java: PTBTokenizer of CoreNLP 3.4.1, METEOR 1.5"
"""What reads a caption: the tokeniser, since a caption has no answer in it."""


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
    """ROUGE-L, METEOR, CIDEr-D and BLEU-1 to 4 over a corpus of captions; BERTScore where a model of it is given.

    All are fractions, CIDEr-D up to 10. METEOR is `meteor_nltk`, or `meteor_nltk_no_wordnet` where WordNet's data is
    not installed; with `caption_metrics=java` it is coco-caption's own, `meteor_1_5`, and all scores are of the words
    that coco-caption's tokeniser gives.
    """

    scores_captions = True
    columns = (
        "rouge_l",
        "meteor",
        "cider_d",
        *BLEU,
        *METEOR,
        *BERTSCORE,
        "num_empty",
    )

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__(questions)
        self.java = False
        self.bert: bertscore.BertScore | None = None
        self.words_of: dict[str, list[str]] = {}

    @classmethod
    def check(cls, scoring: Scoring) -> None:
        """Java and its jars, and the folder of BERTScore's model, where they are asked for."""
        if scoring.caption_metrics == "java":
            java.check()
        if scoring.bertscore_model is not None:
            bertscore.check(scoring.bertscore_model)

    def take(self, scoring: Scoring) -> None:
        """Which tokeniser and METEOR, and BERTScore's model; before any caption is scored."""
        self.java = scoring.caption_metrics == "java"
        if scoring.bertscore_model is not None:
            where = scoring.bertscore_layer, scoring.bertscore_device
            self.bert = bertscore.bertscore(str(scoring.bertscore_model), *where)

    @property
    def rule(self) -> str:
        """The tokeniser, and BERTScore's model where one is given."""
        return "; ".join([JAVA if self.java else WORDS, *([self.bert.rule] if self.bert else [])])

    def prepare(self, outputs: Sequence[str]) -> None:
        """The words of many captions from one Java process: one each would take its start each."""
        if self.java:
            new = list(dict.fromkeys(text for text in outputs if text not in self.words_of))
            self.words_of.update(zip(new, java.words(new), strict=True))

    def words(self, text: str) -> list[str]:
        """The words of a caption, by the tokeniser that was asked for."""
        if not self.java:
            return caption_words(text)
        self.prepare([text])
        return self.words_of[text]

    @cached_property
    def references(self) -> list[list[str]]:
        """The words of each question's references, with spaces between them."""
        self.prepare([answer for question in self.questions for answer in question.references])
        return [[" ".join(self.words(answer)) for answer in question.references] for question in self.questions]

    @cached_property
    def cider(self) -> CiderD:
        """CIDEr-D against all references."""
        return CiderD(self.references)

    def score(self, prediction: str, question: Question) -> Score:
        """The caption's own scores; ROUGE-L is the score of the question."""
        row = self.rows[question.id]
        words, references = self.words(prediction), self.references[row]
        text = " ".join(words)
        rouge = rouge_l(text, references)
        counts = map(float, bleu_statistics(text, references))
        split = [reference.split(" ") if reference else [] for reference in references]
        meteor, statistics = math.nan, [math.nan] * len(METEOR)
        if self.java:
            statistics = java.meteor().statistics(words, split)
        else:
            meteor = meteor_nltk(words, split)
        bert: dict[str, float] = dict.fromkeys(BERTSCORE, math.nan)
        if self.bert is not None:
            bert = self.bert.score(prediction, question.references)
        return Score(
            parsed=text or None,
            score=rouge,
            lenient_parsed=text or None,
            lenient_score=rouge,
            values={
                "rouge_l": rouge,
                "meteor": meteor,
                "cider_d": self.cider.score(text, row),
                "num_empty": float(not text),
                **dict(zip(BLEU, counts, strict=True)),
                **dict(zip(METEOR, statistics, strict=True)),
                **bert,
            },
        )

    def top(self, name: str) -> float | None:
        """1 of ROUGE-L; the others depend on the lengths and the words of the captions."""
        return super().top(name) if name == "rouge_l" else None

    def summarise(self) -> dict[str, float]:
        """Means of ROUGE-L, CIDEr-D, nltk's METEOR and BERTScore; BLEU and METEOR 1.5 of the corpus."""
        scores = super().summarise()
        first = self.columns.index(BLEU[0])
        bleu = corpus_bleu(self.values[:, first : first + len(BLEU)].tolist())
        if self.java:
            meteor = {"meteor_1_5": java.meteor().score([total(self.column(name)) for name in METEOR])}
        else:
            meteor = {_synonyms()[0]: scores["meteor"]}
        return {
            "rouge_l": scores["rouge_l"],
            **meteor,
            "cider_d": scores["cider_d"],
            **{f"bleu_{n}": value for n, value in zip(ORDERS, bleu, strict=True)},
            **{name: scores[name] for name in BERTSCORE if name in scores},
            "num_empty": scores["num_empty"],
        }
