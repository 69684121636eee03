"""The processes of one run, whatever started them: all start from the same, read the same, and end when one ends.

torch's own group cannot do this: who waits in it for a rank that has died waits half an hour, and before it exists
without end. So every rank meets the others at a small store of its own as its first act, says there each second that it
lives, and looks at the rank after it. A rank that fails says so; one that is killed falls silent.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback
from torch._C._distributed_c10d import PrefixStore, TCPStore

POLL_SECONDS = 1.0
SILENT_POLLS = 30
"""After so many looks at a rank that has not moved, it is taken for dead; looks, so that a suspended job is not."""
JOIN_SECONDS = 300.0
"""How long ranks wait for one that has not come: processes of a large job start minutes apart."""
LEAVE_SECONDS = 30.0
GONE = "rank 0, or the launcher that keeps the ranks in contact, is gone"
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Socket Timeout", "gloo")
"""In what torch raises on the ranks that are left."""


class Peers:
    """This process among those of its run; alone, it is in nobody's way.

    Args:
        devices: processes on a node.
        nodes: how many there are.
    """

    def __init__(self, devices: int, nodes: int) -> None:
        self.world, self.rank = devices * nodes, 0
        self._devices, self._store, self._host = devices, None, False
        self._given: dict[str, Any] = {}
        self._ended = threading.Event()
        self._environment = _environment() if self.world > 1 else None
        if self._environment is not None and _started(self._environment) == self.world:
            self.join()

    def join(self) -> None:
        """Meet the other processes; at once where something has started them all, else as soon as they are started.

        Raises:
            ValueError: the first rank cannot be reached.
        """
        if self.world == 1 or self._store is not None:
            return
        environment = self._environment or LightningEnvironment()
        if isinstance(environment, LightningEnvironment):
            environment.set_global_rank(environment.node_rank() * self._devices + environment.local_rank())
        self.rank = environment.global_rank()
        address, port = environment.main_address, environment.main_port
        self._host = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

        def connect() -> Any:
            store = TCPStore(
                address,
                port,
                is_master=self._host,
                wait_for_workers=False,
                timeout=timedelta(seconds=JOIN_SECONDS),
                multi_tenant=True,  # torch's own group will use the same port
            )
            return PrefixStore(f"dragonfly_lit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)

        try:
            self._store = connect()
            watching = connect()  # a client of its own: one that waits keeps the others of its client waiting
        except RuntimeError as error:
            raise ValueError(
                f"rank {self.rank} does not reach rank 0 at {address}:{port} ({_line(error)}). Look at the output of "
                "rank 0, and at MASTER_ADDR and MASTER_PORT."
            ) from error
        self._store.set(f"beat/{self.rank}", "0")
        for name, value in self._given.items():
            self._store.set(f"value/{name}/0", json.dumps(value))
        threading.Thread(target=self._watch, args=(watching,), daemon=True, name="peers").start()

    def first(self, name: str, make: Callable[[], Any]) -> Any:
        """What rank zero makes, on every rank.

        Args:
            name: of the value, once a run.
            make: called on rank zero; gives what JSON can hold.
        """
        if self.rank == 0:
            value = self._given[name] = make()
            if self._store is not None:
                self._store.set(f"value/{name}/0", json.dumps(value))
            return value
        return self._wait(f"value/{name}/0")

    def gather(self, name: str, value: Any) -> list[Any]:
        """What every rank gives, by rank, on every rank; they have met before.

        Args:
            name: of the value, once a run.
            value: what JSON can hold.
        """
        if self._store is None:
            return [value]
        self._store.set(f"value/{name}/{self.rank}", json.dumps(value))
        return [self._wait(f"value/{name}/{rank}") for rank in range(self.world)]

    def _wait(self, key: str) -> Any:
        assert self._store is not None
        try:
            while not self._store.check([key]):  # `_watch` ends this process where the wait would be in vain
                time.sleep(POLL_SECONDS / 10)
            return json.loads(self._store.get(key))
        except RuntimeError as error:
            raise ValueError(f"{GONE} ({_line(error)}). Look at its output; then use resume=auto.") from error

    def fail(self, error: BaseException) -> None:
        """Tell the other ranks that this one ends, and why, so that they end too."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._store is not None:
            with suppress(RuntimeError):
                if not self._store.check(["failed"]):
                    self._store.set("failed", f"rank {self.rank} on {socket.gethostname()} has ended: {_line(error)}")
                if self._host:
                    time.sleep(3 * POLL_SECONDS)  # the store ends with this process: let the others read

    def leave(self) -> None:
        """This rank is done well: the others need not look at it any more."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._store is not None:
            with suppress(RuntimeError):
                self._store.set(f"left/{self.rank}", "")
                until = time.monotonic() + LEAVE_SECONDS
                while self._host and time.monotonic() < until:  # the store ends with this process
                    if self._store.check([f"left/{rank}" for rank in range(self.world)]):
                        break
                    time.sleep(POLL_SECONDS / 10)

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, SystemExit):
            self.leave()
        else:
            self.fail(error)

    def _watch(self, store: Any) -> None:
        """Each second: say that this rank lives, hear whether one has failed, look at the next one."""
        after, beat, seen, silent = (self.rank + 1) % self.world, 0, None, 0
        while not self._ended.wait(POLL_SECONDS):
            beat += 1
            try:
                store.set(f"beat/{self.rank}", str(beat))
                if store.check(["failed"]):
                    self._end(store.get("failed").decode())
                now = store.get(f"beat/{after}") if store.check([f"beat/{after}"]) else None
                left = store.check([f"left/{after}"])
            except RuntimeError:
                self._end(GONE)
                return
            silent = 0 if now != seen or left else silent + 1
            seen = now
            if silent > (JOIN_SECONDS / POLL_SECONDS if now is None else SILENT_POLLS):
                reason = f"rank {after} " + ("has not come" if now is None else "has ended without a word (killed?)")
                with suppress(RuntimeError):
                    store.set("failed", reason)
                self._end(reason)

    def _end(self, reason: str) -> None:
        """At once: the main thread may wait in a collective, which nothing interrupts."""
        if self._ended.is_set():  # it is about to end by itself
            return
        reason = " ".join(reason.split()).rstrip(".")
        line = f"error: rank {self.rank} ends because {reason}. Then resume=auto goes on from the last checkpoint."
        print(line, file=sys.stderr, flush=True)
        if self._host:
            time.sleep(3 * POLL_SECONDS)  # the store ends with this process: let the others read
        os._exit(1)


class Together(Callback):
    """Every rank reads the same data, and says at once what has ended it.

    Args:
        peers: the processes of the run.
    """

    def __init__(self, peers: Peers) -> None:
        self.peers = peers

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The data are open by now, here and on the others.

        Raises:
            ValueError: two ranks would read different data.
        """
        data = getattr(trainer, "datamodule", None)
        if stage == "fit" and data is not None and self.peers.world > 1:
            check_same(self.peers.gather("data", data.reads))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Before Lightning tears down what may itself wait for the others."""
        self.peers.fail(lost_a_peer(exception) or exception)


def check_same(everyone: list[Mapping[str, Any]]) -> None:
    """Refuse ranks that would read different data.

    Args:
        everyone: of each rank, for each source what it has there.

    Raises:
        ValueError: names the ranks and the source, and what each of them has.
    """
    for rank, theirs in enumerate(everyone):
        for name in {**everyone[0], **theirs}:
            if everyone[0].get(name) != theirs.get(name):
                raise ValueError(
                    f"rank 0 and rank {rank} read different data: {name} is {_words(everyone[0].get(name))} on rank 0 "
                    f"and {_words(theirs.get(name))} on rank {rank}. Copy the same shards to every node."
                )


def lost_a_peer(error: BaseException) -> ValueError | None:
    """What torch says where another rank has gone, in plain words; None where `error` is something else."""
    if isinstance(error, RuntimeError) and any(word in str(error) for word in LOST):
        return ValueError(
            f"another rank has gone ({_line(error)}). Look at its output; then resume=auto goes on from the last "
            "checkpoint."
        )
    return None


def _environment() -> ClusterEnvironment | None:
    """What has started the processes of this run, where something has; Lightning asks in the same order."""
    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        if kind.detect():
            return kind()
    return LightningEnvironment() if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ else None


def _started(environment: ClusterEnvironment) -> int:
    """How many processes it has started; else the numbers do not fit, which Lightning says better."""
    if isinstance(environment, LightningEnvironment):
        return int(os.environ["WORLD_SIZE"])
    return environment.world_size()


def _words(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "missing" if value is None else str(value)
    return ", ".join(f"{key} {one}" for key, one in value.items())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
