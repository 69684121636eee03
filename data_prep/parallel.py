"""One function over many arguments in several processes, results in order, little waiting in memory."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, forkserver, get_context, parent_process
from typing import TypeVar

from dragonfly_lit.io.machine import usable_cpus

MAX_WORKERS = 8
Result = TypeVar("Result")


def num_workers() -> int:
    """Processes to use when nobody says how many: the processors, at most `MAX_WORKERS`."""
    return min(usable_cpus(), MAX_WORKERS)


def in_order(function: Callable[..., Result], arguments: Iterable[tuple], workers: int) -> Iterator[Result]:
    """`function(*args)` for each of `arguments`, in their order.

    Args:
        function: of a module, so that another process can import it.
        arguments: read lazily: at most two a worker wait.
        workers: processes; 1 works in this one.

    Raises:
        ValueError: a process was killed, most often because memory ran out.
    """
    if workers <= 1:
        yield from (function(*args) for args in arguments)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    forkserver.ensure_running()  # it imports while the first of the arguments are read
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent) as pool:
        waiting = deque()
        try:
            for args in arguments:
                waiting.append(pool.submit(function, *args))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"one of {workers} worker processes was killed; memory may have run out. Use fewer --workers."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _die_with_parent() -> None:
    """Workers would outlive a parent killed with SIGKILL: nothing closes the queue they wait on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()
