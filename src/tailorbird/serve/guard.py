"""`Guard`: what every request passes before anything looks into it, as plain ASGI.

A page on another site can make a browser send requests to this machine. It can't read the answers, as no other origin
is allowed; it can't send JSON, which needs a permission that is never given; and it can't pass for this machine under a
name of its own (DNS rebinding), because at a loopback address only this machine's names are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tailorbird.serve.answers import encoded
from tailorbird.serve.errors import Refused
from tailorbird.serve.metrics import Metrics
from tailorbird.serve.settings import Settings, is_loopback

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# What anybody may see: the page has no secrets, and a watchdog no key.
OPEN = {"/", "/healthz"}
KNOWN = {*OPEN, "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions"}
_BODY_SECONDS = 30.0
LINGER_SECONDS = 2.0
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """Checks host, key, type and size of requests, and counts their answers."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._loopback = is_loopback(settings.host)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        counted = self._counted(scope["path"], send)
        try:
            headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
            self._check(scope["path"], headers)
            if scope["method"] == "POST":
                receive = await self._whole(receive, headers)
        except Refused as error:
            await _refuse(error, receive, counted)
            return
        except ConnectionError:  # gone before the request was complete
            return
        await self.app(scope, receive, counted)

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._loopback and not is_loopback(_name(host)):
            raise Refused(403, f"this server does not answer to the name {host[:100]!r}", code="wrong_host")
        key = self.settings.api_key
        given = headers.get(b"authorization", b"")
        if key is not None and path not in OPEN and not hmac.compare_digest(given, f"Bearer {key}".encode()):
            raise Refused(401, "the API key is missing or wrong", code="invalid_api_key")

    async def _whole(self, receive: Receive, headers: dict[bytes, bytes]) -> Receive:
        """Read the body, up to the limit; what comes after it is passed on as it comes."""
        if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
            raise Refused(415, "the request must have content-type application/json")
        body = await self._body(receive, headers.get(b"content-length", b"0"))
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        return replay

    async def _body(self, receive: Receive, announced: bytes) -> bytes:
        limit, body, more = self.settings.body_bytes, bytearray(), True
        too_large = Refused(413, f"the request is larger than {limit} bytes", code="request_too_large")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise too_large
        deadline = asyncio.get_running_loop().time() + _BODY_SECONDS
        while more:
            left = deadline - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, left))
            except asyncio.TimeoutError:  # not yet the built-in one in Python 3.10
                raise Refused(408, "the request took too long to arrive") from None
            if message["type"] == "http.disconnect":
                raise ConnectionError
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                raise too_large
        return bytes(body)

    def _counted(self, path: str, send: Send) -> Send:
        known = path if path in KNOWN else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.add(known, str(message["status"]))
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        return counted


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host


async def _refuse(error: Refused, receive: Receive, send: Send) -> None:
    """Answer, then drop what is still on its way: to close at once would reset the connection, and lose the answer."""
    extra = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    content = encoded(error.to_json())
    length = (b"content-length", str(len(content)).encode())
    headers = [(b"content-type", b"application/json"), length, (b"connection", b"close"), *extra]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_drop(receive), LINGER_SECONDS)
    await send({"type": "http.response.body", "body": b""})


async def _drop(receive: Receive) -> None:
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
