"""What must be known of remote files before they can be read: found out once, in parallel, and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from dragonfly_lit.data.fetching import FarFile
from dragonfly_lit.io import atomic

AT_ONCE = 8
SAID_EVERY = 60.0
log = logging.getLogger(__name__)

FindOut = Callable[[FarFile], bytes | None]


class Known:
    """What was found out about remote files: a small file each, so that after a kill only the others are looked at.

    Processes of a node share the work: a file at which one of them is at work is left to it until the others are done.

    Args:
        folder: that it is kept in.
        kind: of what is found out; another kind is kept beside it.
        find_out: what is known of a file; None keeps nothing.
    """

    def __init__(self, folder: Path, kind: str, find_out: FindOut):
        self.folder, self._kind, self._find_out = folder, kind, find_out
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """Of this process, whose own threads would take each other for another process."""

    def of(self, files: Sequence[FarFile], where: str, at_once: int = AT_ONCE) -> list[bytes | None]:
        """What is known of each file.

        Args:
            files: in their order.
            where: they lie, for messages.
            at_once: how many are looked at at a time.
        """
        missing = [file for file in files if not self._path(file).is_file()]
        found: dict[str, bytes | None] = {}
        if missing:
            self.folder.mkdir(parents=True, exist_ok=True)
            turn = os.getpid() % len(missing)  # ranks begin at different files
            missing = [*missing[turn:], *missing[:turn]]
            with _told(where, missing, len(files)) as done:
                for wait in (False, True):
                    if wait and missing:
                        log.warning("%s: %d files are left to other processes that are at them.", where, len(missing))
                    missing = self._look(missing, found, done, wait, at_once)
        return [found[file.key] if file.key in found else self._path(file).read_bytes() for file in files]

    def _look(
        self,
        files: Sequence[FarFile],
        found: dict[str, bytes | None],
        done: Callable[[FarFile], None],
        wait: bool,
        at_once: int,
    ) -> list[FarFile]:
        """Find out about files, and give those that another process is at."""

        def find_out(file: FarFile) -> FarFile | None:
            with self._alone(file, wait) as held:
                if not held:
                    return file
                if not self._path(file).is_file():
                    found[file.key] = content = self._find_out(file)
                    if content is not None:
                        atomic.write(self._path(file), content)
            done(file)
            return None

        pool = ThreadPoolExecutor(max(1, at_once), "dragonfly-first-use")
        try:
            return [file for file in pool.map(find_out, files) if file is not None]
        finally:
            pool.shutdown(cancel_futures=True)

    def _path(self, file: FarFile) -> Path:
        return self.folder / hashlib.sha256(f"{self._kind}\n{file.key}".encode("utf-8", "surrogateescape")).hexdigest()

    @contextmanager
    def _alone(self, file: FarFile, wait: bool) -> Iterator[bool]:
        name = f".lock-{self._path(file).name[:2]}"
        with self._turns[name], (self.folder / name).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError:  # a file system without locks: several processes may look at the same file
                pass
            yield True


@contextmanager
def _told(where: str, missing: Sequence[FarFile], num_files: int) -> Iterator[Callable[[FarFile], None]]:
    """Says how far the first look at files is: a bar on a terminal, else a line now and then; once a node."""
    total = sum(file.num_bytes for file in missing)
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if first:
        log.warning(
            "%s: %d of %d files (%.2f GB) are looked at once, before they are read from; what is done stays done.",
            *(where, len(missing), num_files, total / 1e9),
        )
    columns = TextColumn("indexing"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    shown = first and sys.stderr.isatty()
    began = said = time.monotonic()
    num_bytes = num_done = 0
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("", total=total)

        def done(file: FarFile) -> None:
            nonlocal said, num_bytes, num_done
            num_bytes, num_done = num_bytes + file.num_bytes, num_done + 1
            bar.advance(task, file.num_bytes)
            now = time.monotonic()
            if first and not shown and now - said > SAID_EVERY:
                said = now
                left = (now - began) * (total - num_bytes) / max(1, num_bytes)
                log.warning(
                    "%s: %d of %d files done, about %.0f minutes left.", where, num_done, len(missing), left / 60
                )

        yield done
