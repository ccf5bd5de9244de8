"""Worker processes under supervision: started, restarted when they die, drained at the end.

Each child is `stepweave worker run` in a session of its own, so that Ctrl-C in the terminal reaches only the
supervisor, which then lets the workers finish. A socket joins the two (the *lifeline*): the child writes a line
when its handlers are loaded, and it stops when the other end is gone, so a killed supervisor leaves no workers.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from .errors import CommandError, ExitCode
from .logs import LogLevelName, LogStyle

RESTART_PAUSE_SECONDS_MIN: Final = 0.5
RESTART_PAUSE_SECONDS_MAX: Final = 30.0
#: A process that lived so long begins again with the shortest pause.
STEADY_SECONDS: Final = 60.0
#: What a worker gets on top of its grace period before it is killed.
STOP_MARGIN_SECONDS: Final = 15.0
#: How long loading the handlers may take at the first start.
LOAD_TIMEOUT_SECONDS: Final = 60.0
_READY_BYTES_MAX: Final = 1024 * 1024


class WorkersFailed(CommandError):
    """The workers cannot run as they were asked to; the process itself has said why on stderr."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What each worker process is started with; empty tuples mean the defaults of `worker run`."""

    modules: tuple[str, ...]
    namespaces: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    concurrency: int = 100
    grace_seconds: float = 30.0
    resolve_imports: bool = False
    log_level: LogLevelName = LogLevelName.WARNING
    log_format: LogStyle = LogStyle.CONSOLE

    def command(self, lifeline: int) -> list[str]:
        """The command line of one process. The NATS address goes by environment: it may hold a password."""
        command = [sys.executable, "-P", "-m", "stepweave_orchestrator.cli", "worker", "run"]
        for namespace in self.namespaces:
            command += ["--namespace", namespace]
        for queue in self.queues:
            command += ["--queue", queue]
        command += ["--concurrency", str(self.concurrency), "--grace", f"{self.grace_seconds:g}"]
        command += ["--log-level", self.log_level, "--log-format", self.log_format]
        command += ["--resolve-imports"] if self.resolve_imports else []
        return [*command, "--lifeline", str(lifeline), "--", *self.modules]


class _Child:
    """One process and our end of its lifeline."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: socket.socket) -> None:
        self.process = process
        self.lifeline = lifeline

    def signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it and what its handlers started."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    async def handlers(self) -> dict[str, list[str]] | None:
        """Its handlers with their methods, once they are loaded; `None` where it died before."""
        loop = asyncio.get_running_loop()
        text = b""
        while not text.endswith(b"\n"):
            more = await loop.sock_recv(self.lifeline, 65_536)
            if not more or len(text) > _READY_BYTES_MAX:
                return None
            text += more
        found: dict[str, list[str]] = json.loads(text)
        return found


class WorkerProcesses:
    """Some equal worker processes: `start`, then `stop`; between them `failed` tells of what cannot be mended."""

    def __init__(
        self, settings: WorkerSettings, count: int, *, nats_url: str, say: Callable[[str], None]
    ) -> None:
        """`say` gets a line for people whenever a process was restarted."""
        self.settings = settings
        self._count = count
        self._nats_url = nats_url
        self._say = say
        self._children: dict[int, _Child] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False
        #: By the name of each handler, from the first start on: the methods of it that a template may name.
        self.handlers: dict[str, list[str]] = {}

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [child.process.pid for child in self._children.values() if child.process.returncode is None]

    async def start(self) -> None:
        """Start all and return when their handlers are loaded; raises `WorkersFailed`."""
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_SECONDS):
                loaded = await asyncio.gather(*(self._first_start(number) for number in range(self._count)))
        except TimeoutError:
            await self._kill_all()
            raise WorkersFailed(
                f"the handlers were not loaded within {LOAD_TIMEOUT_SECONDS:.0f} s: "
                "what do the modules do when they are imported?",
                ExitCode.FAILED,
            ) from None
        except BaseException:
            await self._kill_all()
            raise
        self.handlers = loaded[0]
        self._keepers = [asyncio.create_task(self._keep(number)) for number in range(self._count)]

    async def stop(self) -> None:
        """Drain all; what does not end in its time, or when this is cancelled, is killed."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        children = list(self._children.values())
        for child in children:
            child.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.settings.grace_seconds + STOP_MARGIN_SECONDS):
                await asyncio.gather(*(child.process.wait() for child in children))
        except TimeoutError:
            self._say("a worker did not end in its time and was killed")
        finally:
            await self._kill_all()

    async def _first_start(self, number: int) -> dict[str, list[str]]:
        child = await self._spawn(number)
        handlers = await child.handlers()
        if handlers is not None:
            return handlers
        code = await child.process.wait()
        raise WorkersFailed(
            "the worker ended before its handlers were loaded: see its message above",
            ExitCode(code) if code in {*ExitCode} - {ExitCode.OK} else ExitCode.FAILED,
        )

    async def _keep(self, number: int) -> None:
        """Start a process again whenever it ended."""
        loop = asyncio.get_running_loop()
        pause = RESTART_PAUSE_SECONDS_MIN
        while True:
            started = loop.time()
            child = self._children[number]
            code = await child.process.wait()
            child.lifeline.close()
            if loop.time() - started > STEADY_SECONDS:
                pause = RESTART_PAUSE_SECONDS_MIN
            self._say(f"worker process {child.process.pid} {_ending(code)}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, RESTART_PAUSE_SECONDS_MAX)
            await self._spawn(number)

    async def _spawn(self, number: int) -> _Child:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                *self.settings.command(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, "NATS_URL": self._nats_url},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        child = self._children[number] = _Child(process, ours)
        return child

    async def _kill_all(self) -> None:
        children, self._children = list(self._children.values()), {}
        for child in children:
            child.kill()
        for child in children:
            child.lifeline.close()
            await asyncio.shield(child.process.wait())


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def hold_lifeline(file: int, handlers: Mapping[str, list[str]], grace_seconds: float) -> None:
    """In the child: say that the handlers are loaded, and end this process when the supervisor is gone.

    `handlers` are the methods that a template may name, by the names of their handlers.
    """
    lifeline = socket.socket(fileno=file)
    lifeline.setblocking(True)
    lifeline.set_inheritable(False)
    lifeline.sendall(json.dumps(dict(handlers)).encode() + b"\n")

    def watch() -> None:
        with suppress(OSError):
            while lifeline.recv(4096):
                continue
        os.kill(os.getpid(), signal.SIGTERM)
        # A handler may hang, or hold the event loop: nothing outlives the supervisor for long.
        threading.Event().wait(grace_seconds + STOP_MARGIN_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def supervise(settings: WorkerSettings, count: int, nats_url: str) -> None:
    """Run worker processes until SIGTERM or Ctrl-C; raises `WorkersFailed`."""
    from .output import progress
    from .signals import run_until_signal

    async def work() -> None:
        workers = WorkerProcesses(settings, count, nats_url=nats_url, say=progress)
        await workers.start()
        progress(f"{count} worker processes run, with {len(workers.handlers)} handlers")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await workers.stop()

    run_until_signal(work)
