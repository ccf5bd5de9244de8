"""Free TCP ports on the loopback address, remembered over restarts."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from .errors import EmbeddedFailure, EmbeddedServerError

HOST = "127.0.0.1"
#: Below the range that systems take ports of outgoing connections from: one of those could otherwise sit on a
#: server's port at the moment it is restarted.
_PORTS = range(15_000, 30_000)
_ATTEMPTS_MAX = 100


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections of a server stopped just now do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def pick() -> int:
    """Some free port; raises `EmbeddedServerError` when there is none."""
    for _ in range(_ATTEMPTS_MAX):
        port = random.choice(_PORTS)
        if is_free(port):
            return port
    raise EmbeddedServerError(
        f"No free port found on {HOST} in {_PORTS.start}-{_PORTS.stop - 1}: stop some servers here.",
        failure=EmbeddedFailure.PORT_TAKEN,
        server="the embedded servers",
    )


def taken(server: str, port: int) -> EmbeddedServerError:
    """The error for a port that another process has."""
    return EmbeddedServerError(
        f"Port {port} on {HOST}, where the embedded {server} should listen, is taken by another process: "
        "stop that one, or choose another port.",
        failure=EmbeddedFailure.PORT_TAKEN,
        server=server,
    )


def recall(path: Path) -> int | None:
    """The port stored in `path`, if it is there, makes sense and is free."""
    try:
        port = int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
    return port if 1024 <= port <= 65_535 and is_free(port) else None
