"""A real nats-server with JetStream as a child process, its storage in a folder of the project."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path

from . import ports
from .binaries import nats_server
from .process import ServerProcess
from .server import EmbeddedServer, write_secret

_USER = "stepweave"
_GREETING_TIMEOUT_SECONDS = 2.0
_STOP_TIMEOUT_SECONDS = 15.0


class EmbeddedNats(EmbeddedServer):
    """A nats-server of our own on 127.0.0.1, for `async with` or by `start` and `stop`.

    JetStream is on, with the server's own defaults (largest message 1 MiB). It asks for a password (`url`
    carries it) and keeps its port over `restart`. `data_dir` holds `jetstream/` (the storage), `nats.conf`,
    `password`, `port` and `server.log`; the server holds `keep_fds` open as long as it lives.
    """

    name = "NATS"
    _stop_steps = ((signal.SIGTERM, _STOP_TIMEOUT_SECONDS),)
    _port_taken_text = "address already in use"

    def __init__(self, data_dir: Path, *, port: int | None = None, keep_fds: Sequence[int] = ()) -> None:
        super().__init__(data_dir, port=port, keep_fds=keep_fds)
        self._server_name = ""

    @property
    def url(self) -> str:
        """The address, with user and password; valid from the first start on, over restarts too."""
        return f"nats://{_USER}:{self._password}@{ports.HOST}:{self._address_port}"

    @property
    def jetstream_dir(self) -> Path:
        """JetStream's storage; it may be deleted while the server is down."""
        return self.data_dir / "jetstream"

    async def _prepare(self) -> None:
        self._program = nats_server()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir.chmod(0o700)
        self._password = self._recall_password()

    def _spawn(self) -> ServerProcess:
        # A new name each time, to tell our server from another one that answers on the port.
        self._server_name = f"stepweave-{secrets.token_hex(8)}"
        config = self.data_dir / "nats.conf"
        write_secret(
            config,
            f"server_name: {self._server_name}\n"
            f'listen: "{ports.HOST}:{self._port}"\n'
            f"jetstream {{ store_dir: {json.dumps(str(self.data_dir), ensure_ascii=False)} }}\n"
            f'authorization {{ user: {_USER}, password: "{self._password}" }}\n',
        )
        return ServerProcess(
            self.name,
            [str(self._program), "--config", str(config)],
            folder=self.data_dir,
            log=self.log_path,
            death_signal=signal.SIGTERM,
            keep_fds=self._keep_fds,
        )

    async def _answers(self, process: ServerProcess) -> bool:
        """The server speaks first, with a line that names it; it does so when JetStream is ready."""
        try:
            async with asyncio.timeout(_GREETING_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(ports.HOST, self._port)
                try:
                    greeting = await reader.readline()
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError, ValueError):
            return False
        return self._server_name.encode() in greeting

    async def _finish_start(self) -> None:
        """Nothing is left to do."""
