"""`Server`: uvicorn, and how it stops. Imported only after `errors.require`: the library is an extra."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tailorbird.serve.app import create_app
from tailorbird.serve.guard import LINGER_SECONDS
from tailorbird.serve.service import Service

# Longer than the official client keeps an idle connection, so that it is the one to close it, and this side does not
# while the client sends; not much longer, because a timer keeps even a broken connection's state in memory.
_KEEP_ALIVE = 10
_CONNECTIONS = 512
# From the first byte of a request, or the beginning of a connection, to the end of the headers.
_HEADER_SECONDS = 10.0
# For a client to take what waits for it: a buffer's worth while an answer is written, the rest when it is over.
_SEND_SECONDS = 60.0
# After the grace time, for the last bytes to be sent.
_FLUSH_SECONDS = 3


class Protocol(H11Protocol):
    """Closes connections whose headers do not come in time (the guard does that for bodies), and those whose client
    does not read."""

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on where the headers are not complete."""
        if self._over:
            return
        if not self.flow.write_paused:
            self._taken()
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Too much waits for the client."""
        super().pause_writing()
        self._offered()

    def resume_writing(self) -> None:
        """The client has read most of it."""
        self._taken()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, then drop what is still on its way, as the guard does."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(msg.encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._over = True
        self._stop()
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def on_response_complete(self) -> None:
        """All is written; what the client has not read yet keeps even a closed connection open."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._offered()

    def _offered(self) -> None:
        self._taken()
        self._unread = self.loop.call_later(_SEND_SECONDS, self._leave)

    def _leave(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _taken(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(_HEADER_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Server(uvicorn.Server):
    """Serves until a signal. From then on new requests are refused with 503; running ones have the grace time to end,
    and are ended with an error after it, or at a second signal."""

    def __init__(self, service: Service, ready: Callable[[], None] = lambda: None) -> None:
        """Make a server; `ready` is called when it answers."""
        self.service, self._ready, self._deadline = service, ready, float("inf")
        config = uvicorn.Config(
            create_app(service),
            loop="asyncio",
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_FLUSH_SECONDS,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        self.leave()

    def leave(self) -> None:
        """Take no more requests and stop when the running ones are done; at a second call at once."""
        engine = self.service.engine
        self._deadline = 0.0 if engine.draining else time.monotonic() + self.service.settings.grace
        engine.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        engine = self.service.engine
        if engine.draining and (engine.idle or time.monotonic() > self._deadline):
            engine.abort()
            self.should_exit = True
        return await super().on_tick(counter)
