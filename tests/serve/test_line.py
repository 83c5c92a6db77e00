"""The line of requests: turns, a full queue, clients that go, and the end of the server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import openai
import pytest

from tailorbird.serve import server

TEXT = "/v1/completions"
BODY = {"prompt": "A", "max_tokens": 500, "stream": True}
READER = """
import json, socket, sys
body = json.dumps({"prompt": "A", "max_tokens": 500, "stream": sys.argv[2] == "stream"}).encode()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as link:
    head = "POST /v1/completions HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\n"
    link.sendall(f"{head}Content-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
    while link.recv(4096):
        print("more", flush=True)
"""


def begin(running: Any, **changes: Any) -> socket.socket:
    """A request on a connection of its own; its answer waits to be read."""
    link = socket.create_connection(running.address, timeout=60)
    ask(link, **changes)
    return link


def ask(link: socket.socket, **changes: Any) -> None:
    body = json.dumps(BODY | changes).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    link.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def rest(link: socket.socket) -> bytes:
    content = b""
    while not content.endswith(b"0\r\n\r\n") and (piece := link.recv(65536)):
        content += piece
    return content


def line(running: Any) -> tuple[float, float]:
    return running.metric("tailorbird_running"), running.metric("tailorbird_queue_depth")


def test_a_full_line_refuses(serve: Any, slow: Any) -> None:
    slow.go.clear()
    with serve(slow, slots=2, queue=1) as running:
        links = []
        for count in range(3):
            links.append(begin(running, max_tokens=5))
            running.wait(lambda count=count: sum(line(running)) == count + 1)
        assert line(running) == (2, 1)
        status, headers, content = running.request("POST", TEXT, {"prompt": "A"})
        assert status == 429 and int(headers["retry-after"]) >= 1
        assert json.loads(content)["error"]["code"] == "queue_full"
        with pytest.raises(openai.RateLimitError):
            running.client.completions.create(model="tiny", prompt="A")
        slow.go.set()
        assert all(rest(link).count(b'"length"') == 1 for link in links)
        assert running.request("POST", TEXT, {"prompt": "A"})[0] == 200
        assert line(running) == (0, 0)
        for link in links:
            link.close()


def test_short_answers_overtake_long_ones(serve: Any, slow: Any) -> None:
    assert slow.decoder is not None  # packed weights, as a user serves them
    with serve(slow, slots=2) as running, begin(running, max_tokens=1000) as long:
        assert long.recv(4096).startswith(b"HTTP/1.1 200")
        assert running.request("POST", TEXT, {"prompt": "B", "max_tokens": 3})[0] == 200
        assert running.metric("tailorbird_running") == 1
    with serve(slow, slots=2) as running:
        texts: dict[int, str] = {}

        def ask(seed: int) -> None:
            found = running.client.completions.create(model="tiny", prompt="A", seed=seed, temperature=1, max_tokens=30)
            texts[seed] = found.choices[0].text

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        alone = {seed: "".join(slow.generate("A", 30, temperature=1, seed=seed)) for seed in range(5)}
        assert texts == alone


@pytest.mark.parametrize("how", ["stream", "whole"])
def test_a_killed_client_frees_its_slot(serve: Any, slow: Any, how: str) -> None:
    if how == "whole":
        slow.go.clear()
    with serve(slow, slots=1, queue=1) as running:
        command = [sys.executable, "-c", READER, str(running.address[1]), how]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            if how == "stream":
                assert client.stdout.readline() == b"more\n"
                slow.go.clear()
            running.wait(lambda: line(running) == (1, 0))
            with begin(running, max_tokens=4) as waiting:
                running.wait(lambda: line(running) == (1, 1))
                os.kill(client.pid, signal.SIGKILL)
                # At once, though the model still works on the token of the client that is gone.
                running.wait(lambda: line(running) == (1, 0))
                slow.go.set()
                assert b'"length"' in rest(waiting)
        assert running.metric("tailorbird_cancelled_total") == 1
        running.wait(lambda: line(running) == (0, 0))
        if how == "whole":
            running.wait(lambda: running.metric(f'tailorbird_requests_total{{path="{TEXT}",status="499"}}') == 1)


def test_clients_that_go_while_they_wait(serve: Any, slow: Any) -> None:
    slow.go.clear()
    with serve(slow, slots=1, queue=5) as running, begin(running, max_tokens=2) as first:
        running.wait(lambda: line(running) == (1, 0))
        others = [begin(running) for _ in range(5)]
        running.wait(lambda: line(running) == (1, 5))
        for link in others:
            link.close()
        running.wait(lambda: line(running) == (1, 0))
        slow.go.set()
        assert b'"length"' in rest(first)


@pytest.mark.parametrize("tokens", [200, 1000], ids=["a buffer", "more than that"])
def test_a_client_that_never_reads_is_left(serve: Any, slow: Any, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SEND_SECONDS", 0.2)
    with serve(slow) as running:
        # Small buffers between the two, so that a short answer fills them.
        running.server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with socket.socket() as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link.connect(running.address)
            ask(link, max_tokens=tokens)
            running.wait(lambda: running.server.server_state.connections)
            running.wait(lambda: not running.server.server_state.connections)
        running.wait(lambda: line(running) == (0, 0))


def test_a_stream_ends_within_the_grace(serve: Any, slow: Any) -> None:
    slow.go.clear()
    with serve(slow, grace=60) as running, begin(running, max_tokens=5) as link:
        running.wait(lambda: line(running) == (1, 0))
        running.server.leave()
        status, headers, content = running.request("POST", TEXT, {"prompt": "A"})
        assert status == 503 and "retry-after" in headers
        assert json.loads(content)["error"]["code"] == "shutting_down"
        assert running.request("GET", "/healthz")[0] == 503
        slow.go.set()
        assert b'"length"' in rest(link)
        running.thread.join(60)
        assert not running.thread.is_alive()


def test_a_stream_is_ended_after_the_grace(serve: Any, slow: Any) -> None:
    with serve(slow, grace=0.3) as running, begin(running, max_tokens=1000) as link:
        assert link.recv(100)
        slow.go.clear()
        running.server.leave()
        content = rest(link)
        assert b'"shutting_down"' in content and b"[DONE]" in content
        slow.go.set()
        running.thread.join(60)
        assert not running.thread.is_alive()


def child(folder: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tailorbird", "serve", str(folder), "--port", "0", "--json", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | environment)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_command(folder: Path, sign: signal.Signals) -> None:
    with child(folder, "--grace", "30") as process:
        try:
            assert process.stdout is not None
            text = ""
            while not text.rstrip().endswith("}"):
                text += process.stdout.readline()
            told = json.loads(text)
            client = openai.OpenAI(base_url=told["url"] + "/v1", api_key="none", max_retries=0)
            stream = client.completions.create(
                model="tiny", prompt="The", max_tokens=200, stream=True, temperature=1, seed=3
            )
            first = next(stream)
            process.send_signal(sign)
            reasons = [first.choices[0].finish_reason, *(chunk.choices[0].finish_reason for chunk in stream)]
            assert reasons[-1] in ("length", "stop")
            client.close()
            assert process.wait(60) == 0
            assert process.stderr is not None and process.stderr.read() == "stopped serving\n"
        finally:
            process.kill()


def test_the_command_refuses_before_it_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tailorbird.cli.main import call

    assert call(["serve", str(tmp_path), "--host", "0.0.0.0"]) == 2
    assert "no API key" in capsys.readouterr().err
    assert call(["serve", str(tmp_path), "--port", "0"]) == 3
