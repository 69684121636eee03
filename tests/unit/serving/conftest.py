"""A tiny model, an engine of it, and a server of that on a free port."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("python_multipart")

from serving_parts import Asker, processor_of, running

from dragonfly_lit.models.tiny import tiny_model


@pytest.fixture(scope="session")
def tiny():
    return tiny_model(3)


@pytest.fixture
def asker(tiny):
    asker = Asker(tiny, processor_of(tiny), max_rows=4, max_waiting=8)
    yield asker
    asker.engine.stop()


@pytest.fixture(scope="module")
def served(tiny):
    with running(tiny, max_rows=4, max_waiting=8) as server:
        yield server
