"""Typing commands in tests: inside this process, or as processes of their own that are watched."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from stepweave_orchestrator.cli.app import run

#: How long a command of ours may take on a busy machine.
PATIENCE_SECONDS = 60.0
_OURS = ("NATS_URL", "DATABASE_URL", "STEPWEAVE_DATA_DIR", "STEPWEAVE_DEBUG")


class Answer(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Type = Callable[..., Answer]


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without any address of a server."""
    return {name: value for name, value in os.environ.items() if name not in _OURS} | more


def typing_here(capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Commands inside this process; no server is given by the environment."""
    for variable in _OURS:
        monkeypatch.delenv(variable, raising=False)

    def type_command(*words: str) -> Answer:
        capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(words)
        captured = capture.readouterr()
        code = ended.value.code
        return Answer(0 if code is None else int(code), captured.out, captured.err)

    return type_command


async def typed_process(url: str, *words: str) -> Answer:
    """A command as a process of its own, because this one's event loop is busy with the orchestrator."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "stepweave_orchestrator.cli", *words),
        env=clean_environment(NATS_URL=url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode is not None
    return Answer(process.returncode, out.decode(), err.decode())


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for a condition; fail naming `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)


class Program:
    """A `stepweave` command that runs as a process; its output goes to files."""

    def __init__(
        self, folder: Path, words: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("out.*")))
        self.out_path, self.err_path = folder / f"out.{number}", folder / f"err.{number}"
        with self.out_path.open("w") as out, self.err_path.open("w") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "stepweave_orchestrator.cli", *words],
                cwd=folder,
                env=dict(environment) if environment is not None else clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._seen: dict[int, psutil.Process] = {}

    @property
    def out(self) -> str:
        """What it has written to stdout."""
        return self.out_path.read_text("utf-8", "replace")

    @property
    def err(self) -> str:
        """What it has written to stderr."""
        return self.err_path.read_text("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        """Wait until it has written a text; fails with all its output where it ends before."""

        def written() -> bool:
            if text in self.out or text in self.err:
                return True
            assert self.popen.poll() is None, (
                f"it ended with {self.popen.returncode}:\n{self.out}\n{self.err}"
            )
            return False

        until(written, f"{text!r} of {self.popen.args!r}")

    def family(self) -> list[psutil.Process]:
        """Its processes: itself and everything below it, by what they are now."""
        try:
            found = psutil.Process(self.popen.pid)
            family = [found, *found.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        self._seen.update({process.pid: process for process in family})
        return family

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, as the terminal or the system would; remembers who is there."""
        self.family()
        self.popen.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end; its exit code."""
        self.send(number)
        return self.popen.wait(PATIENCE_SECONDS)

    def assert_gone(self) -> None:
        """Nothing of the family that was there is left."""
        until(lambda: not self.left(), f"the end of {[process.pid for process in self.left()]}", 20.0)

    def left(self) -> list[psutil.Process]:
        """Who is still there of the family that was seen."""
        alive = []
        for process in self._seen.values():
            try:
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
            except psutil.NoSuchProcess:
                continue
        return alive

    def close(self) -> None:
        """At the end of a test, however it went: nothing stays behind."""
        self.family()
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait(PATIENCE_SECONDS)
        for process in self.left():
            process.kill()
