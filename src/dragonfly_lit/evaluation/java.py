"""The Java programs of coco-caption, run from pycocoevalcap's jars: Stanford's tokeniser and METEOR 1.5.

METEOR takes seconds to read its paraphrases, so one process of it answers for as long as this one lives. Neither
program can keep us waiting: each reply has its time, and a process that ended, or said something else, is an error of
one line.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO

WAY_OUT = "Give caption_metrics=python, or install a Java runtime and pip install 'dragonfly_lit[eval]'."
LONGEST_S = 300.0
"""Seconds that a reply may take; METEOR's first one waits for its paraphrases to be read."""
NEUTRAL = "x"
"""Stands between captions: the tokeniser looks over the end of a line, and `No.` before a digit belongs to a number."""
NUM_STATISTICS = 23
LENGTHS, CHUNKS, MATCHES = slice(0, 2), 20, slice(21, 23)
"""Places of some of the statistics: of the caption and of its reference."""
JARS = {"tokeniser": "tokenizer/stanford-corenlp-3.4.1.jar", "meteor": "meteor/meteor-1.5.jar"}
PARAPHRASES = "meteor/data/paraphrase-en.gz"


def check() -> None:
    """A ValueError in one line when `java` or a file of pycocoevalcap is not there."""
    if shutil.which("java") is None:
        raise ValueError(f"caption_metrics=java: no program java is on the PATH. {WAY_OUT}")
    for name in (*JARS.values(), PARAPHRASES):
        if not (_package() / name).is_file():
            raise ValueError(f"caption_metrics=java: pycocoevalcap has no file {_package() / name}. {WAY_OUT}")


@lru_cache(maxsize=1)
def _package() -> Path:
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"caption_metrics=java: the jars come with pycocoevalcap, which is not installed. {WAY_OUT}")
    return Path(next(iter(spec.submodule_search_locations)))


def words(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text as coco-caption's tokeniser splits them, without punctuation.

    All texts go through one process, each for itself: what stands before and after a text does not change its words.

    Raises:
        ValueError: there is no Java, or the tokeniser failed.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    if not texts:
        return []
    check()
    given = "".join(f"{' '.join(text.split())}\n{NEUTRAL}\n" for text in texts)
    options = ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    jar = str(_package() / JARS["tokeniser"])
    try:
        done = subprocess.run(
            ["java", "-Xmx1G", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", *options],
            input=given.encode(errors="replace"),
            capture_output=True,
            timeout=LONGEST_S + len(texts) / 1000,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"caption_metrics=java: the tokeniser failed: {error}. {WAY_OUT}") from error
    lines = done.stdout.decode(errors="replace").split("\n")
    if done.returncode or len(lines) < 2 * len(texts) or set(lines[1 : 2 * len(texts) : 2]) != {NEUTRAL}:
        raise ValueError(
            f"caption_metrics=java: the tokeniser ended with status {done.returncode} and {len(lines)} lines for "
            f"{2 * len(texts)}: {_last_line(done.stderr)}. {WAY_OUT}"
        )
    dropped = {*PUNCTUATIONS, ""}
    # At spaces only: a number such as 2 1/2 is one word, with a no-break space in it.
    return [[word for word in line.rstrip().split(" ") if word not in dropped] for line in lines[: 2 * len(texts) : 2]]


class Meteor:
    """METEOR 1.5 for English, as coco-caption calls it; `meteor()` gives the one of this process.

    Raises:
        ValueError: it cannot be started.
    """

    def __init__(self) -> None:
        check()
        jar = _package() / JARS["meteor"]
        command = ["java", "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would fill up
        try:
            self.process = subprocess.Popen(
                command,
                cwd=jar.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,  # an interrupt is ours to answer
            )
        except OSError as error:
            raise ValueError(f"caption_metrics=java: java cannot be started: {error}. {WAY_OUT}") from error
        self._replies: SimpleQueue[bytes] = SimpleQueue()
        Thread(target=_read, args=(self.process.stdout, self._replies), daemon=True).start()
        self._end = weakref.finalize(self, _kill, self.process)

    def statistics(self, prediction: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """What METEOR sums of a caption: lengths, matches and chunks beside its best reference."""
        self._ask("SCORE", *map(_plain, (*references, prediction)))
        found = self._reply(NUM_STATISTICS)
        # As METEOR does before it sums: one chunk that is all of both texts is not fragmented.
        if found[CHUNKS] == 1 and found[MATCHES] == found[LENGTHS]:
            found[CHUNKS] = 0.0
        return found

    def score(self, statistics: Sequence[float]) -> float:
        """METEOR of a caption by its statistics, or of a corpus by their sums."""
        self._ask("EVAL", " ".join(map(repr, map(float, statistics))))
        self._reply(1)  # of each caption, which is the same here
        return self._reply(1)[0]

    def _ask(self, *fields: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write((" ||| ".join(fields) + "\n").encode(errors="replace"))
            self.process.stdin.flush()
        except OSError as error:
            raise self._failed("ended") from error

    def _reply(self, num: int) -> list[float]:
        """The numbers of the next line, which has so many."""
        try:
            line = self._replies.get(timeout=LONGEST_S)
        except Empty:
            raise self._failed(f"gave no reply in {LONGEST_S:g} seconds") from None
        if not line.endswith(b"\n"):
            raise self._failed("ended")
        try:
            numbers = [float(each) for each in line.split()]
        except ValueError:
            numbers = []
        if len(numbers) != num:
            raise self._failed(f"said {line[:80]!r} in place of {num} numbers")
        return numbers

    def _failed(self, what: str) -> ValueError:
        """The error, once the process is gone and the next call would start another."""
        self._end()
        meteor.cache_clear()
        with self._errors:
            self._errors.seek(0)
            said = _last_line(self._errors.read())
        return ValueError(f"caption_metrics=java: METEOR {what} (status {self.process.returncode}): {said}. {WAY_OUT}")


@lru_cache(maxsize=1)
def meteor() -> Meteor:
    """The METEOR of this process, started when it is first needed."""
    return Meteor()


def _plain(words: Sequence[str]) -> str:
    """The words as a field of a line; its separator is left out."""
    return " ".join(word for word in words if word != "|||")


def _read(stream: IO[bytes], replies: SimpleQueue[bytes]) -> None:
    """Puts each line into `replies`; what does not end in a new line was cut off, and is the last."""
    with stream:
        while True:
            line = stream.readline()
            replies.put(line)
            if not line.endswith(b"\n"):
                return


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the process with what it started; its output is closed by the thread that reads it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with suppress(OSError):
        process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess] - a pipe


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else "it said nothing"
