"""What a server is told: where to listen, who may ask, and how much."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from tailorbird.errors import UsageError

_KEY = re.compile(r"[\x21-\x7e]{8,}")


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Attributes:
        host: address to listen at.
        port: 0 takes any free one.
        api_key: what clients must send; needed where others than this machine can ask.
        slots: requests that are worked on by turns.
        queue: requests that wait for a slot; more are refused.
        body_bytes: most bytes of a request.
        prompt_tokens: most tokens of a prompt; None for what the model can look at.
        tokens: most tokens a request may ask for.
        messages: most messages of a conversation.
        grace: seconds that running answers have to end when the server is told to stop.

    Raises:
        UsageError: settings that can't be, or an open door without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    slots: int = 4
    queue: int = 32
    body_bytes: int = 2**20
    prompt_tokens: int | None = None
    tokens: int = 4096
    messages: int = 256
    grace: float = 10.0

    def __post_init__(self) -> None:
        least = {"slots": 1, "queue": 0, "body_bytes": 1, "prompt_tokens": 1, "tokens": 1, "messages": 1, "grace": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not smallest <= value <= 2**31:
                raise UsageError(f"{name} is {value}", hint=f"at least {smallest}")
        if not 0 <= self.port < 2**16:
            raise UsageError(f"port {self.port} is no port", hint="0 to 65535; 0 takes any free one")
        if self.api_key is None and not is_loopback(self.host):
            raise UsageError(
                f"{self.host} can be reached from other machines, and there is no API key",
                hint="set TAILORBIRD_API_KEY (or --api-key), or listen at 127.0.0.1",
            )
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            raise UsageError(
                "the API key must be at least 8 printable ASCII characters without spaces",
                hint='make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )


def is_loopback(host: str) -> bool:
    """Whether a host, as an address or a name, can only be this machine; brackets around IPv6 are fine."""
    name = host.removeprefix("[").removesuffix("]").lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def bind(settings: Settings) -> socket.socket:
    """A socket at host and port, not listening yet.

    Raises:
        UsageError: nothing can listen there.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
    except (OSError, UnicodeError) as cause:
        raise UsageError(
            f"can't listen at {settings.host} port {settings.port}: {cause}", hint="choose another --host or --port"
        ) from cause
    return made


def url(settings: Settings, bound: socket.socket) -> str:
    """Where a server at a bound socket is found."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{bound.getsockname()[1]}"
