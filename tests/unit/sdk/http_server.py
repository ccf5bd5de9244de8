"""A real HTTP server on this machine that answers as a test says."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

JSON = {"Content-Type": "application/json"}


class Seen(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    #: The client's end of the connection.
    port: int


class Answer(NamedTuple):
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""


class HttpServer:
    """Answers as the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        #: By path without query; a function is called, and may wait for what the test sets.
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        remember, answers = self.seen.append, self.answers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                remember(Seen(self.command, self.path, headers, body, self.client_address[1]))
                answer = answers.get(self.path.partition("?")[0], Answer(404))
                answer = answer() if callable(answer) else answer
                if answer.status == 0:  # hang up
                    self.close_connection = True
                    return
                self.send_response_only(answer.status)
                for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(answer.body)
                except OSError:  # the client has read enough
                    self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                """Not on stderr."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that left is none."""
                if not isinstance(sys.exception(), OSError):
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
