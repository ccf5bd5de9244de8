"""One server process: started apart from our process group, waited for with deadlines, stopped for good.

Waiting is polling (a few milliseconds apart): a child watcher would bind a server to the event loop that
started it, and tests and commands start a server in one loop and stop it in another.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import DISK_FULL_TEXT, EmbeddedFailure, EmbeddedServerError, disk_full

POLL_SECONDS = 0.01
#: How long the kernel may take to bury a process after SIGKILL.
KILL_TIMEOUT_SECONDS = 10.0
#: A longer log is put aside when its server starts.
LOG_BYTES_MAX = 4 * 1024 * 1024
_LOG_TAIL_BYTES = 8 * 1024
_LOG_TAIL_LINES = 8


class Account(NamedTuple):
    """The user and group that a server runs as."""

    uid: int
    gid: int


async def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Poll until `condition` holds; False when it did not within `timeout_seconds`."""
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    while not condition():
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


class ServerProcess:
    """A started server: `pid`, its log, and the ways to end it."""

    def __init__(
        self,
        server: str,
        command: Sequence[str],
        *,
        folder: Path,
        log: Path,
        death_signal: signal.Signals,
        account: Account | None = None,
        keep_fds: Sequence[int] = (),
    ) -> None:
        """Start `command` in `folder`, its output appended to `log`.

        The process gets its own session, so that Ctrl-C in a terminal does not reach it, and a clean
        environment, so that PG* variables of the user do not. It receives `death_signal` when the *thread*
        that called this ends: start servers from the main thread. `keep_fds` stay open in it.
        """
        self.server = server
        self._log = log
        uid, gid = account or Account(-1, -1)
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".old.log"))
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._log_start = os.fstat(log_fd).st_size
            launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
            self._popen = subprocess.Popen(
                [*launcher, str(os.getpid()), str(int(death_signal)), str(uid), str(gid), *command],
                cwd=folder,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                start_new_session=True,
                pass_fds=tuple(keep_fds),
            )
        finally:
            os.close(log_fd)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, None while it runs."""
        return self._popen.poll()

    def log_text(self) -> str:
        """The end of what this process (not one before it) wrote."""
        with self._log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")

    def death_error(self) -> EmbeddedServerError:
        """The error that says why this server died while it started."""
        text = self.log_text()
        if DISK_FULL_TEXT in text:
            return disk_full(self.server, self._log.parent)
        lines = "\n  ".join(text.strip().splitlines()[-_LOG_TAIL_LINES:]) or "(it wrote nothing)"
        return EmbeddedServerError(
            f"The embedded {self.server} stopped while it started (exit code {self.exit_code}); "
            f"its log {self._log} ends with:\n  {lines}",
            failure=EmbeddedFailure.DIED,
            server=self.server,
        )

    async def wait_exit(self, timeout_seconds: float) -> bool:
        """Wait for the end; False when it still runs after `timeout_seconds`."""
        return await wait_until(lambda: self.exit_code is not None, timeout_seconds)

    async def stop(self, *steps: tuple[signal.Signals, float]) -> None:
        """Send each signal in turn, giving the server so many seconds to leave; kill it if none helped.

        A cancelled stop kills it at once, so that a second Ctrl-C is quick and leaves nothing behind.
        """
        try:
            for number, timeout_seconds in steps:
                self._popen.send_signal(number)
                if await self.wait_exit(timeout_seconds):
                    return
        except asyncio.CancelledError:
            self.kill_now()
            self._popen.wait(KILL_TIMEOUT_SECONDS)
            raise
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL the server and its children, as a crash of the machine would; returns when all are gone."""
        still_there = self.kill_now()
        if not await wait_until(lambda: not still_there(), KILL_TIMEOUT_SECONDS):
            raise EmbeddedServerError(
                f"The embedded {self.server} (process {self.pid}) does not end after SIGKILL within "
                f"{KILL_TIMEOUT_SECONDS:.0f} s: its disk may hang.",
                failure=EmbeddedFailure.TIMED_OUT,
                server=self.server,
            )

    def kill_now(self) -> Callable[[], bool]:
        """`kill` without the wait; what it returns tells whether some process is still there."""
        import psutil

        children: list[psutil.Process] = []
        if self.exit_code is None:
            try:
                parent = psutil.Process(self.pid)
                parent.suspend()  # so that it starts no child that we would miss
                children = parent.children(recursive=True)
            except psutil.Error:
                children = []
            self._popen.kill()
            for child in children:
                try:
                    child.kill()
                except psutil.NoSuchProcess:
                    continue

        def runs(process: psutil.Process) -> bool:
            try:
                return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return False

        return lambda: self.exit_code is None or any(runs(child) for child in children)
