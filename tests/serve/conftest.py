"""A tiny random model with a chat template, and a server for it in a thread of this process."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from runpy import run_path
from typing import Any

import openai
import pytest

import tailorbird
import tailorbird.artifact.verify as verifying
from tailorbird.runtime.chat import ChatTemplate
from tailorbird.runtime.language_model import LanguageModel
from tailorbird.runtime.load import load
from tailorbird.serve.server import Server
from tailorbird.serve.service import Service
from tailorbird.serve.settings import Settings, bind, url

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('a system message comes first') }}{% endif %}"
    "[{{ message.role }}] {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
NAME = "tiny"
LENGTH = 1024


@dataclass
class Running:
    """A server at work."""

    url: str
    server: Server
    thread: threading.Thread
    key: str | None = None

    @property
    def service(self) -> Service:
        return self.server.service

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host.strip("[]"), int(port)

    @cached_property
    def client(self) -> openai.OpenAI:
        """The official client; it does not try again by itself."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key or "none", max_retries=0, timeout=60)

    def request(
        self, method: str, path: str, body: bytes | Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of a plain request."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = ({"content-type": "application/json"} if sent is not None else {}) | (headers or {})
        try:
            connection.request(method, path, sent, given)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def metric(self, line: str) -> float:
        """One number of /metrics, by what stands before it."""
        text = self.request("GET", "/metrics")[2].decode()
        return next((float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(f"{line} ")), 0.0)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until something holds; a minute at most."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


class Slow(LanguageModel):
    """A model each of whose tokens waits for `go`; it never ends by itself."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model.module, model.source)
        self.tokenizer.eos = ()
        self.go = threading.Event()
        self.go.set()

    def steps(self, ids: Any, room: int) -> Any:
        steps = super().steps(ids, room)

        class Waiting:
            def __next__(_) -> Any:
                assert self.go.wait(60)
                return next(steps)

            def feed(_, token: int) -> None:
                steps.feed(token)

        return Waiting()


@contextmanager
def serving(model: LanguageModel, template: ChatTemplate | None = None, **settings: Any) -> Iterator[Running]:
    """Serve a model until the end of the block."""
    chosen = Settings(port=0, **settings)
    ready = threading.Event()
    bound: socket.socket = bind(chosen)
    server = Server(Service(model, NAME, chosen, template), ready.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    address = url(chosen, bound)
    thread.start()
    try:
        assert ready.wait(60)
        running = Running(address, server, thread, chosen.api_key)
        yield running
        running.client.close()
    finally:
        server.leave()
        server.leave()
        thread.join(60)
        bound.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = run_path(str(Path(__file__).parents[1] / "pipeline" / "tiny.py"))
    made = tmp_path_factory.mktemp("original") / NAME
    tiny["make_model"]("llama", made, max_position_embeddings=LENGTH)
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


@pytest.fixture(scope="session")
def folder(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact that is served."""
    made = tmp_path_factory.mktemp("served") / NAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        tailorbird.compress(original, made, method="rtn", budget="6bits")
    return made


@pytest.fixture(scope="session")
def model(folder: Path) -> LanguageModel:
    return load(folder)


@pytest.fixture(scope="session")
def template(model: LanguageModel) -> ChatTemplate:
    found = ChatTemplate.of(model.source)
    assert found is not None
    return found


@pytest.fixture
def slow(folder: Path) -> Slow:
    return Slow(load(folder))


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """`serving`, for tests whose server has settings of its own."""
    return serving


@pytest.fixture(scope="session")
def running(model: LanguageModel, template: ChatTemplate) -> Iterator[Running]:
    """A server for everything that leaves no traces."""
    with serving(model, template) as found:
        yield found
