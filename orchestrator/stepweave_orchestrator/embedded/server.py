"""What both embedded servers have in common: a folder, a password, a port, and a life."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from . import ports
from .errors import EmbeddedFailure, EmbeddedServerError, from_os_error
from .process import ServerProcess

#: Includes what a server does after a crash before it answers.
START_TIMEOUT_SECONDS = 60.0
_PORT_ATTEMPTS_MAX = 5
_OLD_SERVER_PAUSE_SECONDS = 0.1


class EmbeddedServer(ABC):
    """A server of our own on 127.0.0.1, for `async with` or by `start` and `stop`.

    Start it from the main thread: it is stopped when the thread that started it ends.
    """

    name: ClassVar[str]
    #: Signals that ask it to stop, each with the seconds it then has.
    _stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]]
    #: What its log says where its port is taken, and where the one before it is not quite gone.
    _port_taken_text: ClassVar[str]
    _old_server_texts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, data_dir: Path, *, port: int | None, keep_fds: Sequence[int]) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._fixed_port = port
        self._port: int | None = None
        self._password = ""
        self._keep_fds = keep_fds
        self._process: ServerProcess | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server (of its first process)."""
        if self._process is None:
            raise self._not_running()
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.exit_code is None

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self.data_dir / "server.log"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server and return when it takes connections.

        Does nothing when it runs already. Raises `EmbeddedServerError`; nothing then stays behind.
        """
        if self.is_running:
            return
        try:
            await self._prepare()
            await self._launch()
            await self._finish_start()
        except OSError as error:
            await self._abandon()
            raise from_os_error(error, server=self.name, path=self.data_dir) from error
        except BaseException:
            await self._abandon()
            raise
        self._fixed_port = self._port  # clients know it from now on

    async def stop(self) -> None:
        """Stop the server cleanly and leave no process behind. Does nothing when it is down."""
        if self._process is not None:
            process, self._process = self._process, None
            await process.stop(*self._stop_steps)

    async def kill(self) -> None:
        """SIGKILL all of the server's processes, as a crash of the machine would."""
        if self._process is None:
            raise self._not_running()
        process, self._process = self._process, None
        await process.kill()

    async def restart(self) -> None:
        """Stop the server if it runs, and start it on the same port."""
        await self.stop()
        await self.start()

    @abstractmethod
    async def _prepare(self) -> None:
        """Have everything in place for `_spawn`."""

    @abstractmethod
    def _spawn(self) -> ServerProcess:
        """Start the process, to listen on `_port`."""

    @abstractmethod
    async def _answers(self, process: ServerProcess) -> bool:
        """Whether it takes connections."""

    @abstractmethod
    async def _finish_start(self) -> None:
        """What is to do once it takes connections."""

    @property
    def _address_port(self) -> int:
        if self._port is None:
            raise self._not_running()
        return self._port

    async def _launch(self) -> None:
        """Start the process on its port, or on a free one where nobody knows a port of it yet."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_SECONDS
        remembered = self.data_dir / "port"
        for _ in range(_PORT_ATTEMPTS_MAX):
            self._port = self._fixed_port or ports.recall(remembered) or ports.pick()
            if ports.is_free(self._port):
                remembered.write_text(f"{self._port}\n", "ascii")
                if await self._start_process(deadline):
                    return
            if self._fixed_port is not None:
                break
        raise ports.taken(self.name, self._address_port)

    async def _start_process(self, deadline: float) -> bool:
        """Start the process and wait until it answers; False where its port is taken."""
        while True:
            process = self._process = self._spawn()
            while process.exit_code is None:
                if await self._answers(process):
                    return True
                if asyncio.get_running_loop().time() > deadline:
                    raise self._timed_out("start", START_TIMEOUT_SECONDS)
                await asyncio.sleep(0.005)
            text = process.log_text()
            if self._port_taken_text in text:
                return False
            if not any(sign in text for sign in self._old_server_texts):
                raise process.death_error()
            # Children of a killed server notice that it is gone and leave: give them a moment.
            await asyncio.sleep(_OLD_SERVER_PAUSE_SECONDS)

    async def _abandon(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            await process.kill()

    def _recall_password(self) -> str:
        """The password kept in the folder, a new random one the first time."""
        path = self.data_dir / "password"
        if not path.exists():
            write_secret(path, secrets.token_hex(24))
        return path.read_text("ascii")

    def _not_running(self) -> EmbeddedServerError:
        return EmbeddedServerError(
            f"The embedded {self.name} is not running: call start() first.",
            failure=EmbeddedFailure.NOT_RUNNING,
            server=self.name,
        )

    def _timed_out(self, what: str, seconds: float) -> EmbeddedServerError:
        return EmbeddedServerError(
            f"The embedded {self.name} did not {what} within {seconds:.0f} s: see its log {self.log_path}.",
            failure=EmbeddedFailure.TIMED_OUT,
            server=self.name,
        )


def write_secret(path: Path, text: str) -> None:
    """Write `text` to a file that only its owner may read (mode 0600), replacing one that is there."""
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)
