"""`Server`: uvicorn, and how it stops. Imported only after `errors.require`: the library is an extra."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from tailorbird.serve.app import create_app
from tailorbird.serve.service import Service

# Longer than the official client keeps an idle connection, so that it is the one to close it, and this side does not
# while the client sends; not much longer, because a timer keeps even a broken connection's state in memory.
_KEEP_ALIVE = 10
_CONNECTIONS = 512
# After the grace time, for the last bytes to be sent.
_FLUSH_SECONDS = 3


class Server(uvicorn.Server):
    """Serves until a signal. From then on new requests are refused with 503; running ones have the grace time to end,
    and are ended with an error after it, or at a second signal."""

    def __init__(self, service: Service, ready: Callable[[], None] = lambda: None) -> None:
        """Make a server; `ready` is called when it answers."""
        self.service, self._ready, self._deadline = service, ready, float("inf")
        config = uvicorn.Config(
            create_app(service),
            loop="asyncio",
            http="h11",
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
