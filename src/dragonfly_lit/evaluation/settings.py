"""How questions are put to a model, and how its answers are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.judge import Judge
from dragonfly_lit.evaluation.lengths import LENGTHS
from dragonfly_lit.evaluation.metrics.base import Scoring
from dragonfly_lit.evaluation.perturb import Perturbation
from dragonfly_lit.evaluation.prompts import PromptBook


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one evaluation.

    Attributes:
        prompts: the prompt templates.
        data_root: folder of the benchmarks' data.
        batch_tokens: tokens of a batch at most; less needs less memory and changes no answer.
        decoding: whether tokens are decoded in place or on a growing cache; see `BatchGenerator`.
        max_new_tokens: length of an answer at most; the benchmark's own unless given.
        temperature: 0 takes the likeliest token.
        draws: answers to each question, each with a generator of its own.
        scoring: `generation`, or `loglikelihood`: the choice that is likeliest, from one pass for all choices.
        likelihood_of: whose: of the choices' letters, or of their texts behind the question alone.
        likelihood_length: of texts: what makes long and short ones comparable; see `lengths.LENGTHS`.
        shots: examples in front of each question.
        shots_split: where they are from; a split of the benchmark that is not asked unless given.
        shots_seed: which of its questions they are.
        perturb: what is done to the images.
        seed: of drawn answers and of the bootstrap.
        limit: only the first so many questions of each benchmark.
        resamples: of the bootstrap.
        gallery: answers of each benchmark that the page shows.
        metrics: what the metrics are told.
        predict: nothing is scored: answers become the file that a challenge's server takes.
        progress: whether to draw a progress bar.
        judge: who scores open answers.
        made: what the results say of their origin: model, run, step, date, command, commit.
    """

    prompts: PromptBook
    data_root: str | Path = "data"
    batch_tokens: int = 32768
    decoding: str = "auto"
    max_new_tokens: int | None = None
    temperature: float = 0.0
    draws: int = 1
    scoring: str = "generation"
    likelihood_of: str = "letter"
    likelihood_length: str = "tokens"
    shots: int = 0
    shots_split: str | None = None
    shots_seed: int = 0
    perturb: Perturbation | None = None
    seed: int = 0
    limit: int | None = None
    resamples: int = 1000
    gallery: int = 24
    metrics: Scoring = field(default_factory=Scoring)
    predict: bool = False
    progress: bool = True
    judge: Judge = field(default_factory=Judge)
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (
            ("batch_tokens", 1),
            ("max_new_tokens", 1),
            ("limit", 1),
            ("draws", 1),
            ("shots", 0),
            ("resamples", 1),
            ("gallery", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: give at least {least}.")
        if self.draws > 1 and not self.temperature:
            raise ValueError(f"sampling.n={self.draws}: the likeliest answer is always the same; give a temperature.")
        if self.scoring not in ("generation", "loglikelihood"):
            raise ValueError(f"scoring={self.scoring}: use generation or loglikelihood.")
        if self.likelihood_of not in ("letter", "text"):
            raise ValueError(f"likelihood.of={self.likelihood_of}: use letter or text.")
        if self.likelihood_of == "text" and self.scoring == "generation":
            raise ValueError("likelihood.of=text compares nothing with scoring=generation: give scoring=loglikelihood.")
        if self.likelihood_length not in LENGTHS:
            raise ValueError(f"likelihood.length={self.likelihood_length}: use one of {', '.join(LENGTHS)}.")
        if self.likelihood_length != "tokens" and not self.by_text:
            raise ValueError(
                f"likelihood.length={self.likelihood_length}: only texts of choices have lengths; give "
                "scoring=loglikelihood likelihood.of=text, or likelihood.length=tokens."
            )
        if self.draws > 1 and self.scoring == "loglikelihood":
            raise ValueError(f"sampling.n={self.draws}: scoring=loglikelihood draws nothing; give sampling.n=1.")
        if self.predict and self.draws > 1:
            raise ValueError(f"sampling.n={self.draws}: predict=true writes one answer a question; give sampling.n=1.")

    @property
    def by_text(self) -> bool:
        """Whether the likelihoods of the choices' texts are compared."""
        return self.scoring == "loglikelihood" and self.likelihood_of == "text"
