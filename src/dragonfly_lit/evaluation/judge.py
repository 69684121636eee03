"""A judge for open answers: requests as JSON lines, scores read from a file or, by choice, requested from an endpoint.

Nothing leaves the machine unless `base_url` is given. The built-in prompt has the scale of MM-Vet (0.0 to 1.0 in steps
of a tenth) and examples of its own; for scores that can be compared with published ones give the
authors' prompt as `template`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.predictions import read_rows
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.io import atomic

log = logging.getLogger(__name__)

TEMPLATE = """\
You grade answers to questions about images. Compare the answer to the accepted one and say how right it is, as one
number from 0.0 (wrong) to 1.0 (right) in steps of 0.1. <AND> joins facts that must all be there; each is worth its
share. <OR> separates facts of which one is enough. How an answer is worded does not count, what it adds counts only
when it is wrong.

Question | Accepted answer | Answer | Score
How many birds sit on the wire? | 4 | Four. | 1.0
How many birds sit on the wire? | 4 | Three birds. | 0.0
What is on the table? | a cup <AND> a book | There is a cup on the table. | 0.5
What colour is the bus? | red <OR> dark red | It is red. | 1.0
Which city is this? | Oslo <AND> Norway | Somewhere in Norway, perhaps Bergen. | 0.4
{question} | {accepted} | {answer} | """
"""Ends where the judge goes on with a number; fields {question}, {accepted} and {answer}."""

_NUMBER = re.compile(r"(?<![\d.])(?:0(?:\.\d+)?|1(?:\.0+)?)(?!\.?\d)")
_FIELD = re.compile(r"\{(question|accepted|answer)\}")
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
MAX_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Who scores open answers, and how the requests are sent.

    Attributes:
        scores_file: JSON lines `{"id", "score"}` with scores from 0 to 1.
        base_url: of an OpenAI-compatible endpoint, such as `http://localhost:8000/v1`; nothing is sent without one.
        model: name that the endpoint knows.
        template: a prompt with the fields {question}, {accepted} and {answer}, or the file of one; else the built-in.
        key_variable: environment variable of the endpoint's key, where it wants one.
        retries: further tries after a failure that may pass.
        timeout_s: seconds to wait for one reply.
        parallel: requests under way at once.
    """

    scores_file: str | Path | None = None
    base_url: str | None = None
    model: str | None = None
    template: str | Path | None = None
    key_variable: str = "JUDGE_API_KEY"
    retries: int = 5
    timeout_s: float = 60.0
    parallel: int = 8

    def __post_init__(self) -> None:
        if self.scores_file is not None and self.base_url is not None:
            raise ValueError("judge.scores_file and judge.base_url are both given. Scores come from one of them.")
        if self.base_url is not None and not self.model:
            raise ValueError(f"judge.base_url={self.base_url} needs judge.model, a name that the endpoint knows.")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"judge.base_url={self.base_url} is not an http or https address.")

    @property
    def name(self) -> str:
        """Of who scores, as far as a score depends on it, for the results and their folder; empty where nobody does.

        The model of the endpoint, or the content of the file of scores; then the prompt, if it is not the built-in one.
        """
        if self.scores_file is not None:
            path = Path(self.scores_file)
            said = path.read_bytes() if path.is_file() else str(path).encode()  # `scores` tells of a missing one
            return f"scores_{sha256(said).hexdigest()[:8]}"
        if self.base_url is None:
            return ""
        own = "" if self.template is None else f"_prompt_{sha256(self._template().encode()).hexdigest()[:8]}"
        return f"{self.model}{own}"

    def scores(
        self, task: str, questions: Sequence[Question], answers: Sequence[Answer], folder: Path
    ) -> dict[str, float] | None:
        """Writes the requests; the score of each question by id, or None without a judge.

        Raises:
            ValueError: the file of scores does not fit, or the endpoint failed for good.
        """
        requests = [self.request(task, q, a) for q, a in zip(questions, answers, strict=True)]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{task}.requests.jsonl"
        atomic.write(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in requests))
        if self.scores_file is not None:
            return read_scores(Path(self.scores_file), task, {question.id for question in questions})
        if self.base_url is not None:
            return self._score_all(requests, folder / f"{task}.replies.jsonl")
        log.warning("%s needs a judge: %s holds the requests; none was sent.", task, path)
        return None

    def request(self, task: str, question: Question, answer: Answer) -> dict[str, Any]:
        """One line for a judge."""
        accepted = " <OR> ".join(question.references)
        words = {"question": question.text, "accepted": accepted, "answer": answer.output}
        one_line = {name: " ".join(text.split()) for name, text in words.items()}  # the table has one line a question
        prompt = _FIELD.sub(lambda field: one_line[field[1]], self._template())
        return {
            "id": question.id,
            "task": task,
            "question": question.text,
            "accepted": list(question.references),
            "answer": answer.output,
            "category": question.category,
            "prompt": prompt,
        }

    def _template(self) -> str:
        if self.template is None:
            return TEMPLATE
        text = str(self.template)
        if "{answer}" not in text:
            if not Path(text).is_file():
                raise ValueError(f"judge.template={text:.80} is neither a file nor a text with the field {{answer}}.")
            text = Path(text).read_text(encoding="utf-8")
        if missing := [name for name in ("question", "accepted", "answer") if f"{{{name}}}" not in text]:
            raise ValueError(f"judge.template lacks the field {{{missing[0]}}}.")
        return text

    def _score_all(self, requests: Sequence[Mapping[str, Any]], cache: Path) -> dict[str, float]:
        """Scores of all requests; replies are kept as they come, so none is sent twice."""
        known = {row["key"]: row["reply"] for row in _lines(cache)}
        keys = {request["id"]: store.digest([self.model, request["prompt"]]) for request in requests}
        missing = list(
            {keys[request["id"]]: request for request in requests if keys[request["id"]] not in known}.items()
        )
        with ThreadPoolExecutor(self.parallel) as pool, open(cache, "a", encoding="utf-8") as file:
            for (key, request), reply in zip(
                missing, pool.map(lambda item: self._request_score(item[1]), missing), strict=True
            ):
                known[key] = reply
                file.write(json.dumps({"key": key, "id": request["id"], "model": self.model, "reply": reply}) + "\n")
                file.flush()
        return {request["id"]: parse_score(known[keys[request["id"]]]) or 0.0 for request in requests}

    def _request_score(self, request: Mapping[str, Any]) -> str:
        """The endpoint's reply that holds a score; the temperature rises with each reply that holds none."""
        reply, temperature = "", 0.0
        for attempt in range(self.retries + 1):
            try:
                reply = self._post(request["prompt"], temperature)
            except urllib.error.HTTPError as error:
                if error.code not in RETRIED or attempt == self.retries:
                    raise ValueError(f"judge.base_url={self.base_url} answered {error.code} {error.reason}.") from error
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                if attempt == self.retries:
                    raise ValueError(
                        f"judge.base_url={self.base_url} failed {attempt + 1} times: {error!r}."
                    ) from error
            else:
                if parse_score(reply) is not None:
                    return reply
                temperature = min(1.0, temperature + 0.5)
                continue
            time.sleep(min(MAX_WAIT_S, 0.5 * 2**attempt))
        log.warning("the judge gave no score for %s: %r; it counts as 0.", request["id"], reply)
        return reply

    def _post(self, prompt: str, temperature: float) -> str:
        body = {
            "model": self.model,
            "temperature": temperature,
            "max_tokens": 8,
            "messages": [{"role": "user", "content": prompt}],
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{str(self.base_url).rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])


def parse_score(reply: str) -> float | None:
    """The first number from 0 to 1 in a judge's reply; None when there is none."""
    found = _NUMBER.search(reply)
    return None if found is None else float(found[0])


def read_scores(path: Path, task: str, ids: set[str]) -> dict[str, float]:
    """A judge's scores by question id.

    Raises:
        ValueError: the file is missing or malformed, a score is not a number from 0 to 1, or an id is unknown, double
            or missing.
    """
    scores: dict[str, float] = {}
    for row in read_rows(path):
        key, score = str(row.get("id")), row.get("score")
        if key not in ids:
            raise ValueError(f"{path}: {key!r} is not a question of {task}.")
        if key in scores:
            raise ValueError(f"{path}: {key!r} has two scores.")
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"{path}: the score of {key!r} is {score!r}; it must be a number from 0 to 1.")
        scores[key] = float(score)
    if missing := sorted(ids - scores.keys()):
        raise ValueError(
            f"{path}: {len(missing)} of {len(ids)} questions of {task} have no score, e.g. {missing[0]!r}."
        )
    return scores


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a cache; one torn by a kill is requested again."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        atomic.write(path, "".join(line + "\n" for line in lines[:-1]))
    return [json.loads(line) for line in lines[:-1]]
