"""Captions scored by coco-caption's Java against pycocoevalcap's own wrappers; a Java that fails ends in one line."""

import os
import random
import shutil
import signal
import stat
import time

import pytest

from dragonfly_lit.evaluation import java
from dragonfly_lit.evaluation.metrics.base import Scoring
from dragonfly_lit.evaluation.metrics.caption import Captions
from dragonfly_lit.evaluation.question import Question

tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
meteor = pytest.importorskip("pycocoevalcap.meteor.meteor")
bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
cider = pytest.importorskip("pycocoevalcap.cider.cider")
rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs java on the PATH")
JAVA = Scoring(caption_metrics="java")
WORDS = "The a heart lung lungs is are clear mass left lobe of in no small running ran quickly fast dog puppy".split()  # noqa: SIM905
ODD = r"""
Mr. etc. U.S. Inc. No. no. A. Dr. e.g. p.m. Fig. vs. ||| || ( ) [x] { } it's don't `` "a" ' 2 1/2 3.5 $5 5% a-b -- ...
http://x.y/z a@b.co &amp; <b> * 5cm T2-weighted ! ? ?! ; : 0 \ / and/or cannot gonna @ ^ ~ _ __a__ -lrb- #
""".split()  # noqa: SIM905
ODD += [
    "a\u00a0b",
    "\u200b",
    "\x00",
    "\ufffd",
    "\u2013",
    "\u201cq\u201d",
    "\u00e9",
    "\u4e2d\u6587",
    "\U0001f600",
    "\u00bd",
]


def caption(draw: random.Random, odd: float) -> str:
    words = [draw.choice(ODD if draw.random() < odd else WORDS) for _ in range(draw.randint(0, 14))]
    return draw.choice([" ", " ", "  ", "\n", "\t"]).join(words)


def corpus(seed: int, size: int, odd: float) -> tuple[list[str], list[list[str]]]:
    draw = random.Random(seed)
    references = [[caption(draw, odd) for _ in range(draw.randint(1, 3))] for _ in range(size)]
    predictions = [draw.choice([draw.choice(given), caption(draw, odd), "", " "]) for given in references]
    return predictions, references


def theirs_of(texts: list[str]) -> list[str]:
    """pycocoevalcap's words of each text, with a word of no weight after each: its words depend on the next line."""
    given = {n: [{"caption": " ".join(text.split())}, {"caption": "x"}] for n, text in enumerate(texts)}
    return [words[0] for words in tokenizer.PTBTokenizer().tokenize(given).values()]


def ours_of(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    questions = [
        Question(id=str(n), task="captions", text="Describe.", references=tuple(given))
        for n, given in enumerate(references)
    ]
    metric = Captions(questions)
    metric.take(JAVA)
    metric.prepare(predictions)
    for prediction, question in zip(predictions, questions, strict=True):
        metric.update(prediction, question)
    return metric.compute()


@pytest.fixture
def utf8(monkeypatch):
    """pycocoevalcap leaves the encoding to the machine's locale."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=UTF-8")


@needs_java
@pytest.mark.parametrize(("seed", "odd"), [(1, 0.0), (2, 0.3), (3, 1.0)])
def test_words_are_those_of_coco_captions_tokeniser(utf8, seed, odd):
    texts, _ = corpus(seed, 300, odd)
    assert [" ".join(words) for words in java.words(texts)] == theirs_of(texts)


@needs_java
def test_words_of_a_caption_do_not_depend_on_its_neighbours():
    texts = ["Lesion No.", "5 cm", "seen by Mr.", "Smith", "", "etc.", "U.S.", "The"]
    alone = [java.words([text])[0] for text in texts]
    assert java.words(texts) == alone == list(reversed(java.words(texts[::-1])))
    assert java.words([]) == []


@needs_java
def test_corpus_scores_are_those_of_coco_caption(utf8):
    theirs = meteor.Meteor()
    for seed, odd in ((4, 0.0), (5, 0.4)):
        predictions, references = corpus(seed, 150, odd)
        ours = ours_of(predictions, references)
        words = iter(theirs_of([text for given in references for text in given]))
        # A separator inside of a reference would make it two for pycocoevalcap; the tokeniser splits it.
        gts = {n: [next(words) for _ in given] for n, given in enumerate(references)}
        res = {n: [text] for n, text in enumerate(theirs_of(predictions))}
        assert not any("|||" in text for given in gts.values() for text in given)
        assert ours["meteor_1_5"] == pytest.approx(theirs.compute_score(gts, res)[0], rel=1e-12)
        assert ours["rouge_l"] == pytest.approx(float(rouge.Rouge().compute_score(gts, res)[0]), rel=1e-12)
        assert ours["cider_d"] == pytest.approx(float(cider.Cider().compute_score(gts, res)[0]), rel=1e-12)
        found = [ours[f"bleu_{n}"] for n in (1, 2, 3, 4)]
        assert found == pytest.approx(bleu.Bleu(4).compute_score(gts, res, verbose=0)[0], rel=1e-12)
        assert not any(name.startswith("meteor_nltk") for name in ours)


@needs_java
def test_sums_of_statistics_are_scored_as_meteor_sums_them():
    draw, one = random.Random(6), java.meteor()
    pairs = [("dog", "dogs"), ("puppy", "dog"), ("left lung", "lungs left"), ("the", "the"), ("the", "a"), ("", "a")]
    for _ in range(20):
        chosen = draw.choices(pairs, k=8)
        lines = []
        for said, meant in chosen:
            one._ask("SCORE", meant, said)
            lines.append(" ".join(map(str, one._reply(java.NUM_STATISTICS))))
        one._ask("EVAL", *lines)
        theirs = [one._reply(1)[0] for _ in range(len(lines) + 1)]
        ours = [one.statistics(said.split(), [meant.split()]) for said, meant in chosen]
        assert [one.score(each) for each in ours] == theirs[:-1]
        assert one.score([sum(column) for column in zip(*ours, strict=True)]) == pytest.approx(theirs[-1], rel=1e-12)


@needs_java
def test_a_meteor_that_is_killed_ends_in_one_line_and_the_next_one_starts():
    one = java.meteor()
    assert one.score(one.statistics(["a", "dog"], [["a", "dog"]])) == pytest.approx(1.0)
    os.kill(one.process.pid, signal.SIGKILL)
    with pytest.raises(ValueError, match=r"caption_metrics=java: METEOR ended .*-9.*caption_metrics=python") as error:
        one.statistics(["a"], [["a"]])
    assert "\n" not in str(error.value)
    assert java.meteor() is not one
    java.meteor()._end()
    java.meteor.cache_clear()


def a_java(tmp_path, monkeypatch, script: str) -> None:
    """Puts a program java in front of the PATH."""
    program = tmp_path / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sleep 60", r"gave no reply in 0\.5 seconds"),
        ("echo 'no heap' >&2; exit 1", r"ended \(status 1\): no heap"),
        ("printf '1.0 2.0'", r"ended \(status 0\)"),
        ("echo 1.0 2.0; sleep 60", "in place of 23 numbers"),
        ("echo one two; sleep 60", "in place of 23 numbers"),
    ],
)
def test_a_meteor_that_fails_ends_in_one_line(tmp_path, monkeypatch, script, said):
    a_java(tmp_path, monkeypatch, script)
    monkeypatch.setattr(java, "LONGEST_S", 0.5)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=said) as error:
        java.Meteor().statistics(["a"], [["a"]])
    assert "\n" not in str(error.value)
    assert "caption_metrics=python" in str(error.value)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("script", ["sleep 60", "exit 3", "echo only", "kill -9 $$"])
def test_a_tokeniser_that_fails_ends_in_one_line(tmp_path, monkeypatch, script):
    a_java(tmp_path, monkeypatch, f"exec {script}" if script.startswith("sleep") else script)
    monkeypatch.setattr(java, "LONGEST_S", 0.5)
    with pytest.raises(ValueError, match=r"caption_metrics=java: the tokeniser .*caption_metrics=python") as error:
        java.words(["a dog"])
    assert "\n" not in str(error.value)


def test_without_java_or_its_jars_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no program java is on the PATH"):
        Captions.check(JAVA)
    a_java(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setattr(java, "_package", lambda: tmp_path)
    with pytest.raises(ValueError, match="has no file"):
        Captions.check(JAVA)
