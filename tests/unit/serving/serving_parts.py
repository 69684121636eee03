"""Who asks an engine from many threads, and a server in a thread."""

from __future__ import annotations

import base64
import io
import threading
import time
from contextlib import contextmanager

from limits import patient
from PIL import Image

from dragonfly_lit.models.tiny import tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.serving.application import Server
from dragonfly_lit.serving.engine import Engine
from dragonfly_lit.serving.gate import Limits
from dragonfly_lit.serving.listening import Listener, listen
from dragonfly_lit.serving.prompts import Message, Prompts
from dragonfly_lit.serving.tickets import Done, Failed, Piece, Request


def processor_of(model, **kwargs):
    return DragonflyProcessor(DragonflyImageProcessor.of(model.layout), tiny_tokenizer(), **kwargs)


def png(seed: int) -> bytes:
    """A picture that no other seed gives."""
    file = io.BytesIO()
    colours = [(seed * 37 + 61 * i) % 256 for i in range(12)]
    Image.frombytes("RGB", (2, 2), bytes(colours)).resize((60 + 7 * seed, 64)).save(file, "PNG")
    return file.getvalue()


def url(seed: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(seed)).decode()


def user(*parts: str | bytes) -> Message:
    return Message(role="user", parts=parts)


class Asker:
    """Asks an engine from many threads."""

    def __init__(self, model, processor, **settings) -> None:
        self.model, self.processor = model, processor
        self.engine = Engine(model, processor, **settings)
        self.prompts = Prompts(
            processor, self.engine.prefixes.get, max_pixels=10**6, max_tokens=self.engine.context - 1, max_images=8
        )
        self.engine.start()

    def submit(self, *messages: Message, **fields):
        """The ticket, the events so far, and what is set when there are all of them."""
        events, ended = [], threading.Event()

        def listen(new) -> None:
            events.extend(new)
            if isinstance(new[-1], Done | Failed):
                ended.set()

        ticket = self.engine.submit(Request(prompt=self.prompts.make(messages), listener=listen, **fields))
        return ticket, events, ended

    def ask(self, *messages: Message, **fields):
        """All events of a request."""
        _, events, ended = self.submit(*messages, **fields)
        assert ended.wait(patient(60))
        return events

    def text(self, *messages: Message, **fields) -> str:
        return "".join(event.text for event in self.ask(*messages, **fields) if isinstance(event, Piece))


@contextmanager
def running(
    model, *, api_key=None, hosts=("127.0.0.1", "localhost"), limits=None, fetch=None, header_seconds=30.0, **settings
):
    """A server in a thread; its base address is `.url`."""
    processor = processor_of(model)
    engine = Engine(model, processor, **settings)
    server = Server(engine, processor, name="tiny", limits=limits or Limits(), fetch=fetch)
    with listen("127.0.0.1", 0) as listener:
        server.port = listener.getsockname()[1]
        server.url = f"http://127.0.0.1:{server.port}"
        keys = (api_key,) if isinstance(api_key, str) else api_key or ()
        application = server.application(api_keys=keys, hosts=hosts)
        server.listener = Listener(application, retire=engine.retire, drain_seconds=5.0, header_seconds=header_seconds)
        thread = threading.Thread(target=server.listener.run, kwargs={"sockets": [listener]})
        thread.start()
        end = time.monotonic() + patient(60)
        while not (server.listener.started and engine.alive) and time.monotonic() < end:
            time.sleep(0.02)
        try:
            yield server
        finally:
            server.listener.handle_exit(15, None)
            thread.join(patient(30))
            assert not thread.is_alive()
            assert not engine.alive
