"""Where the live viewer's page is, and who may talk to it.

A page of another web site, open in the same browser, could otherwise steer a training: browsers let any page open
sockets to this machine. So the Host that was asked for must be this machine (else a foreign name may have been made to
point here: DNS rebinding), and the Origin of a socket must be the page's own address. Programs send no Origin.
"""

from __future__ import annotations

import ipaddress
import logging
import platform
import socket
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from distwar_gs.system.errors import ConfigError

log = logging.getLogger(__name__)


class Headers(Protocol):
    """Of a request."""

    def get(self, key: str, default: str) -> str:
        """A header that may be there once."""

    def get_all(self, key: str) -> list[str]:
        """All headers of a name."""


@dataclass(frozen=True)
class Place:
    """An address that the viewer listens on."""

    host: str
    """As it was asked for."""
    port: int

    @property
    def address(self) -> str:
        """Of the page, on this machine."""
        host = "127.0.0.1" if _is_everywhere(self.host) else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def tunnel(self) -> str:
        """The command that brings the page to another machine."""
        host = "localhost" if _is_everywhere(self.host) or _is_local(self.host) else self.host
        return f"ssh -L {self.port}:{host}:{self.port} {platform.node()}"

    def say(self) -> None:
        """Where the page is; and who can reach it, if that is more than this machine."""
        log.info("viewer: %s   from another machine: %s, then open http://localhost:%d",
                 self.address, self.tunnel, self.port)  # fmt: skip
        if not _is_local(self.host):
            log.warning("viewer: whoever reaches %s port %d can watch and steer this run", self.host, self.port)

    def refusal(self, headers: Headers) -> str | None:
        """Why a request is not for us, with the remedy; None: it is."""
        host, origin = headers.get_all("Host"), headers.get_all("Origin")
        if len(host) != 1 or not _is_ours(host[0], self.host):
            return (
                f"This page is not known as {', '.join(host)}. Open {self.address}; from another machine first run "
                f"{self.tunnel} and then open http://localhost:{self.port}\n"
            )
        if any(urlsplit(one).netloc != host[0] for one in origin):
            return f"A page of {', '.join(origin)} may not use this viewer. Open {self.address} itself.\n"
        is_foreign = headers.get("Sec-Fetch-Site", "none") in ("cross-site", "same-site")
        if is_foreign and headers.get("Sec-Fetch-Mode", "") != "navigate":
            return f"Other pages may not use this viewer. Open {self.address} itself.\n"
        return None


def check_package() -> None:
    try:
        import websockets.asyncio.server  # noqa: F401
    except ImportError:
        raise ConfigError(
            "the live viewer needs the package websockets (14 or newer): pip install -r requirements-optional.txt, or "
            "leave --viewer out"
        ) from None


def bound(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=64)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"the viewer cannot listen on {host} port {port} ({reason}); choose another port (--viewer PORT in a "
            "training, else --port; 0: any that is free), or another address of this machine"
        ) from error


def _is_ours(host: str, listened: str) -> bool:
    """Whether a Host header names this machine: localhost, any address in numbers (no foreign name can be one), the
    name that the viewer listens on, and where it listens beyond this machine, the machine's own."""
    name = urlsplit(f"//{host}").hostname or ""
    known = {"localhost", listened.lower()}
    if not _is_local(listened):
        known |= {platform.node().lower(), socket.getfqdn().lower()}
    return name in known or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_everywhere(host: str) -> bool:
    return host == "" or (_is_address(host) and ipaddress.ip_address(host).is_unspecified)
