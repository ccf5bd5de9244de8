"""A process of the benchmark: started, asked by lines of JSON, ended for good.

A child writes one line of JSON when it is ready, and one more as the answer to each line that it reads. It has a
session of its own, so that Ctrl-C in the terminal does not reach it, and on Linux the kernel kills it when the
benchmark dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stepweave_orchestrator import embedded

READY_TIMEOUT_SECONDS: Final = 60.0
STOP_TIMEOUT_SECONDS: Final = 15.0
_LINE_BYTES_MAX: Final = 4 * 1024 * 1024
_LOG_TAIL_BYTES: Final = 2_000
#: Becomes the program that is named to it, and dies with this process.
_LAUNCHER: Final = Path(embedded.__file__).with_name("launch.py")


class ChildFailed(Exception):
    """A process of the benchmark did not do what it was asked to; the text says which and what it logged."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a child runs. Secrets go by `environment`, which adds to that of this process.

    One that does not `answer` has its output in its log, and no input.
    """

    name: str
    command: Sequence[str]
    folder: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    answers: bool = True


class Child:
    """A running child; made by `running`."""

    def __init__(self, program: Program, process: asyncio.subprocess.Process) -> None:
        self.name = program.name
        self._log = program.log
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ask(self, request: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        """Send a request and wait for its answer; raises `ChildFailed`."""
        assert self._process.stdin is not None, "a child is started with a pipe"
        with suppress(ConnectionError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            await self._process.stdin.drain()
        return await self.answer(timeout_seconds=timeout_seconds)

    async def answer(self, *, timeout_seconds: float) -> Any:
        """The next line that it writes, as JSON; raises `ChildFailed`."""
        assert self._process.stdout is not None, "a child is started with a pipe"
        try:
            async with asyncio.timeout(timeout_seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise self.failed(f"did not answer within {timeout_seconds:g} s") from None
        if not line:
            raise self.failed("ended")
        try:
            answer = json.loads(line)
        except ValueError:
            raise self.failed(f"wrote what is not JSON ({line[:200]!r})") from None
        if isinstance(answer, dict) and "error" in answer:
            raise self.failed(f"says: {answer['error']}")
        return answer

    async def end(self) -> int:
        """Wait for its end; returns the exit code."""
        return await self._process.wait()

    def failed(self, what: str) -> ChildFailed:
        """The error that says what it did not do, with the end of its log."""
        tail = self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return ChildFailed(f"{self.name} {what}; its log {self._log} ends with:\n{tail or '(nothing)'}")

    async def stop(self) -> None:
        """Ask it to end, and kill its session where it does not; at once where this is cancelled."""
        try:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Kill its session, if something of it is left."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.shield(self._process.wait())


def _clean_environment() -> dict[str, str]:
    """That of this process, without settings of ours: what is measured are the defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STEPWEAVE_")}


async def _start(program: Program) -> Child:
    program.log.parent.mkdir(parents=True, exist_ok=True)
    with program.log.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-I",
                "-S",
                str(_LAUNCHER),
                str(os.getpid()),
                str(int(signal.SIGKILL)),
                "-1",
                "-1",
            ),
            *program.command,
            cwd=program.folder,
            env={**_clean_environment(), **program.environment},
            stdin=asyncio.subprocess.PIPE if program.answers else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if program.answers else log,
            stderr=log,
            limit=_LINE_BYTES_MAX,
            start_new_session=True,
        )
    return Child(program, process)


async def _says_so(child: Child) -> None:
    await child.answer(timeout_seconds=READY_TIMEOUT_SECONDS)


@asynccontextmanager
async def running(
    program: Program, *, ready: Callable[[Child], Awaitable[None]] = _says_so
) -> AsyncIterator[Child]:
    """A child for the length of the block, that is ready: `ready` ends. Raises `ChildFailed`."""
    child = await _start(program)
    try:
        try:
            async with asyncio.timeout(READY_TIMEOUT_SECONDS):
                await ready(child)
        except TimeoutError:
            raise child.failed(f"was not ready within {READY_TIMEOUT_SECONDS:g} s") from None
        yield child
    finally:
        await child.stop()


async def all_running(stack: AsyncExitStack, programs: Sequence[Program]) -> list[Child]:
    """Children that are started side by side and live as long as `stack`; raises `ChildFailed`."""
    started = await asyncio.gather(
        *(stack.enter_async_context(running(program)) for program in programs), return_exceptions=True
    )
    children: list[Child] = []
    for one in started:
        if isinstance(one, BaseException):
            raise one
        children.append(one)
    return children


async def run_to_end(program: Program, *, timeout_seconds: float) -> None:
    """Run a program that does not answer until it ends; raises `ChildFailed` where it ends badly."""
    child = await _start(program)
    try:
        async with asyncio.timeout(timeout_seconds):
            code = await child.end()
        if code != 0:
            raise child.failed(f"ended with exit code {code}")
    except TimeoutError:
        raise child.failed(f"did not end within {timeout_seconds:g} s") from None
    finally:
        await child.kill()
