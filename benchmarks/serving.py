"""Requests a second and time to the first token of `serve`, against `model.generate` one by one behind the same API.

Two servers of one model, in processes of their own: the one of this project, and one that differs in its engine alone,
which gives a request after the other to `model.generate`. Every client asks one question after the other, each about an
image that no one else asks about, and reads the stream of its answer. Both servers are asked the same in turn, so the
ratios are of one run; `same` is the share of answers that are equal, character for character.

    python benchmarks/serving.py                            # the tiny model on the CPU
    python benchmarks/serving.py --clients 1 32 --requests 64 --json serving.json
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import multiprocessing
import statistics
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import numpy as np
    import torch
    from PIL import Image
    from rich.console import Console
    from rich.table import Table

WAYS = ("one by one", "serve")
NAME = "bench"


def serve(way: str, threads: int, rows: int, seed: int, port: Any) -> None:
    """A server of a random tiny model on a free port, which is told; in a process of its own, until it is ended."""
    from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
    from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor
    from dragonfly_lit.serving.application import Server
    from dragonfly_lit.serving.engine import Engine
    from dragonfly_lit.serving.gate import Limits
    from dragonfly_lit.serving.listening import Listener, listen

    torch.set_num_threads(threads)
    model = tiny_model(seed)
    processor = DragonflyProcessor(DragonflyImageProcessor.of(model.layout), tiny_tokenizer())
    engine: Any = Engine if way == "serve" else one_by_one()
    engine = engine(model, processor, max_rows=rows, max_waiting=1000)
    server = Server(engine, processor, name=NAME, limits=Limits())
    with listen("127.0.0.1", 0) as listener:
        port.send(listener.getsockname()[1])
        Listener(server.application(), retire=engine.retire).run(sockets=[listener])


def one_by_one() -> type:
    """An engine that gives a request after the other to transformers' `generate`."""
    from transformers.generation.streamers import BaseStreamer

    from dragonfly_lit.serving.answering import Row
    from dragonfly_lit.serving.engine import Engine
    from dragonfly_lit.serving.sampling import Chosen

    class Told(BaseStreamer):
        """Hands the tokens on, as they come."""

        def __init__(self, engine: Any, ticket: Any) -> None:
            self.answering, self.ticket, self.seen_prompt = engine.answering, ticket, False
            self.row = Row(ticket, 0, self.answering.tokenizer)

        def put(self, value: Any) -> None:
            if not self.seen_prompt:
                self.seen_prompt = True
                return
            if self.row.num == 0:
                self.ticket.first = time.monotonic()
            if self.ticket.open:
                self.row.take(Chosen(int(value[0])), self.answering.ends)
                self.answering.report([self.ticket])

        def end(self) -> None: ...

    class OneByOne(Engine):
        """The same queue, and no two requests at once."""

        def _answer_all(self) -> None:
            while True:
                with self._wake:
                    while not (self._waiting or self._stopping):
                        self._wake.wait()
                    if not self._waiting:
                        return
                    ticket = self._waiting.popleft()
                prompt, model = ticket.request.prompt, self.answering.reader.model
                grids = [[list(crop.grids.medium), list(crop.grids.high)] for crop in prompt.crops]
                model.generate(
                    input_ids=torch.tensor([prompt.ids]),
                    pixel_values=torch.stack([crop.pixels for crop in prompt.crops]),
                    image_grids=torch.tensor(grids),
                    max_new_tokens=ticket.request.max_tokens,
                    do_sample=False,
                    streamer=Told(self, ticket),
                )

    return OneByOne


class Answer(NamedTuple):
    """What a client saw."""

    text: str
    first: float
    total: float


def ask(port: int, body: bytes) -> Answer:
    """One question; reads the stream of its answer."""
    start, first, words = time.perf_counter(), 0.0, []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(response.read().decode())
    for line in response:
        if line.startswith(b"data: {"):
            choice = json.loads(line[6:])["choices"][0]
            first = first or ("content" in choice["delta"] and bool(choice["delta"]["content"])) * time.perf_counter()
            words.append(choice["delta"].get("content") or "")
    connection.close()
    end = time.perf_counter()
    return Answer("".join(words), (first or end) - start, end - start)


def question(number: int, new_tokens: int) -> bytes:
    """The body of a request about an image of its own."""
    blocks = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(blocks).resize((320, 240), Image.Resampling.NEAREST).save(file, "JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": f"what is in image {number}?"}]
    asked = {"model": NAME, "messages": [{"role": "user", "content": parts}], "max_tokens": new_tokens, "stream": True}
    return json.dumps(asked).encode()


def load(port: int, bodies: list[bytes], clients: int) -> tuple[float, list[Answer]]:
    """Seconds until so many clients have asked all of it, and the answers in the order of the questions."""
    answers: dict[int, Answer] = {}
    left, lock = iter(range(len(bodies))), threading.Lock()

    def client() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            answers[number] = ask(port, bodies[number])

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, [answers[number] for number in range(len(bodies))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="at once (default 1 8 32)")
    parser.add_argument("--requests", type=int, default=64, help="at every number of clients (default 64)")
    parser.add_argument("--new-tokens", type=int, default=48, help="of every answer (default 48)")
    parser.add_argument("--rows", type=int, default=32, help="answers at a time of serve (default 32)")
    parser.add_argument("--threads", type=int, default=1, help="of each server's torch (default 1)")
    parser.add_argument("--rounds", type=int, default=2, help="of which the better one counts (default 2)")
    parser.add_argument("--seed", type=int, default=3, help="of the random weights (default 3)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ports, processes = {}, []
    for way in WAYS:
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(way, args.threads, args.rows, args.seed, there), daemon=True)
        process.start()
        processes.append(process)
        ports[way] = here.recv()
    try:
        rows = measure(args, ports)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    table = Table(
        "clients", "requests/s, one by one", "serve", "ratio", "first token ms, one by one", "serve", "ratio", "same"
    )
    for row in rows:
        base, mine = (row[way] for way in WAYS)
        table.add_row(
            str(row["clients"]),
            f"{base['requests/s']:.1f}",
            f"{mine['requests/s']:.1f}",
            f"{row['throughput ratio']:.2f}",
            f"{base['first ms']:.0f}",
            f"{mine['first ms']:.0f}",
            f"{row['first token ratio']:.2f}",
            f"{row['same']:.2f}",
        )
    Console(width=140).print(table)
    print(
        f"CPU, {args.threads} threads a server, torch {torch.__version__}, the tiny model, {args.new_tokens} tokens an "
        f"answer, {args.requests} requests; first token: median."
    )
    if args.json is not None:
        args.json.write_text(
            json.dumps({"rows": rows, "arguments": {**vars(args), "json": str(args.json)}}, indent=2) + "\n"
        )


def measure(args: argparse.Namespace, ports: dict[str, int]) -> list[dict[str, Any]]:
    """A row for every number of clients."""
    wait = [question(10**6 + n, 4) for n in range(4)]
    for port in ports.values():
        wait_for(port)
        load(port, wait, 2)
    rows, number = [], 0
    for clients in args.clients:
        found: dict[str, tuple[float, list[Answer]]] = {}
        same = []
        for _ in range(args.rounds):
            # Other images in every round: what serve remembers of an image must not count.
            bodies = [question(number + n, args.new_tokens) for n in range(args.requests)]
            number += args.requests
            tried = {way: load(ports[way], bodies, clients) for way in WAYS}
            pairs = zip(*(answers for _, answers in tried.values()), strict=True)
            same += [one.text == other.text for one, other in pairs]
            for way, result in tried.items():
                if way not in found or result[0] < found[way][0]:
                    found[way] = result
        row: dict[str, Any] = {"clients": clients, "same": sum(same) / len(same)}
        for way, (seconds, answers) in found.items():
            first = 1e3 * statistics.median(answer.first for answer in answers)
            row[way] = {"requests/s": len(answers) / seconds, "first ms": first}
        base, mine = (row[way] for way in WAYS)
        row["throughput ratio"] = mine["requests/s"] / base["requests/s"]
        row["first token ratio"] = base["first ms"] / mine["first ms"]
        rows.append(row)
    return rows


def wait_for(port: int) -> None:
    """Until the server answers."""
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server did not start.")


if __name__ == "__main__":
    main()
