"""Many clients at once, some of whom are killed: nothing fails but what is refused, and memory stays flat."""

from __future__ import annotations

import collections
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest

CLIENTS, SECONDS = 64, 60.0
# Allocators settle within the first seconds; then come thousands of requests: a few kilobytes kept of each would show.
MOST_GROWTH = 24 * 2**20


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of memory a process has."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def vanish(address: tuple[str, int], chance: random.Random) -> None:
    """A client that is killed: a stream begins, and its connection ends without a word."""
    body = json.dumps({"prompt": "The", "max_tokens": 400, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(address, timeout=60) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if chance.random() < 0.7:
            link.recv(200)
        time.sleep(chance.random() / 4)


def behave(url: str, seed: int, until: float, seen: collections.Counter[str]) -> None:
    """One client: whole answers, streams, and now and then a sudden end."""
    chance = random.Random(seed)
    host, _, port = url.removeprefix("http://").rpartition(":")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=90) as client:
        while time.monotonic() < until:
            kind = chance.choice(("whole", "stream", "chat", "killed"))
            prompt, tokens = "The tailorbird " * chance.randint(1, 20), chance.randint(1, 24)
            try:
                if kind == "killed":
                    vanish((host, int(port)), chance)
                elif kind == "whole":
                    found = client.completions.create(model="tiny", prompt=prompt, max_tokens=tokens)
                    assert found.choices[0].finish_reason
                elif kind == "stream":
                    chunks = list(
                        client.completions.create(model="tiny", prompt=prompt, max_tokens=tokens, stream=True)
                    )
                    assert chunks[-1].choices[0].finish_reason
                else:
                    talk = [{"role": "user", "content": prompt}]
                    client.chat.completions.create(model="tiny", messages=talk, max_tokens=tokens)  # type: ignore[arg-type]
                seen[kind] += 1
            except openai.RateLimitError as error:
                seen["429"] += 1
                assert int(error.response.headers["retry-after"]) >= 1
                time.sleep(chance.random())
            except Exception as error:
                seen[f"error: {type(error).__name__}: {str(error)[:200]}"] += 1


def metric(text: str, name: str) -> float:
    return float(next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")))


@pytest.mark.slow
def test_a_minute_of_many_clients(folder: Path) -> None:
    command = [sys.executable, "-m", "tailorbird", "serve", str(folder), "--port", "0", "--queue", "24"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            seen: collections.Counter[str] = collections.Counter()
            until = time.monotonic() + SECONDS
            clients = [threading.Thread(target=behave, args=(url, seed, until, seen)) for seed in range(CLIENTS)]
            for client in clients:
                client.start()
            sizes = []
            while time.monotonic() < until:
                time.sleep(SECONDS / 6)
                sizes.append(resident(process))
            for client in clients:
                client.join()
            grown = max(sizes) - sizes[1]
            with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
                deadline = time.monotonic() + 30
                while metric(text := client.get("/metrics", cast_to=str), "tailorbird_running"):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            print(f"{dict(seen)}; MB of memory: {[round(size / 1e6) for size in sizes]}")
            assert [kind for kind in seen if kind.startswith("error")] == []
            assert all(seen[kind] for kind in ("whole", "stream", "chat", "killed", "429"))
            assert metric(text, "tailorbird_queue_depth") == 0
            assert metric(text, "tailorbird_cancelled_total") > 0
            assert grown < MOST_GROWTH
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
