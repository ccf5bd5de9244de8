"""Where NATS and Postgres are: what was given, else the `stepweave dev` of this folder, else the default.

`stepweave dev` writes the addresses of its servers to `dev.json` in its data folder and keeps the file locked
as long as it runs, so a file that a killed process left behind is recognised.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from .errors import DATABASE_EXAMPLE, CommandError, ExitCode

DEV_FILE: Final = "dev.json"
DEFAULT_DATA_DIR: Final = ".data"
#: Names the data folder for `dev` and for the commands that look for a running one.
DATA_DIR_VARIABLE: Final = "STEPWEAVE_DATA_DIR"
DEFAULT_NATS_URL: Final = "nats://127.0.0.1:4222"
_NATS_EXAMPLE: Final = "nats://user:password@host:4222"
_DATABASE_SCHEMES: Final = ("postgresql", "postgres")
_NATS_SCHEMES: Final = ("nats", "tls", "ws", "wss")


class DevAddresses(NamedTuple):
    """The servers of a running `stepweave dev`."""

    nats_url: str
    database_url: str


def data_folder() -> Path:
    """The data folder of this working folder."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR)


def without_secrets(url: str) -> str:
    """An address that may be shown: the password is left out."""
    return re.sub(r"//([^/@:]*)(:[^/@]*)?@", r"//\1@", url)


def check_database_address(url: str) -> None:
    """Raise `CommandError` where this is no address of a PostgreSQL database. Its text never shows the address."""
    fault = _fault(url, _DATABASE_SCHEMES)
    if fault:
        raise _malformed("DATABASE_URL (--database-url)", fault, DATABASE_EXAMPLE)


def check_nats_address(url: str) -> None:
    """Raise `CommandError` where this is no address of NATS, nor several with commas; never shows the address."""
    servers = [part.strip() for part in url.split(",") if part.strip()]
    faults = [
        # NATS takes a bare host as well.
        _fault(server if "://" in server else f"nats://{server}", _NATS_SCHEMES, host_needed=True)
        for server in servers
    ]
    fault = next(filter(None, faults), "") if servers else "it names no server"
    if fault:
        raise _malformed("NATS_URL (--nats-url)", fault, _NATS_EXAMPLE)


def _malformed(name: str, fault: str, example: str) -> CommandError:
    return CommandError(f"{name} is malformed: {fault}; write it like {example}", ExitCode.USAGE)


def _fault(url: str, schemes: Sequence[str], *, host_needed: bool = False) -> str:
    """What is wrong with an address, empty where nothing is. Names no part of it: each may hold the password."""
    try:
        found = urlsplit(url)
    except ValueError:
        return "its host cannot be read; write other characters of a password as %XX"
    if found.scheme not in schemes:
        return f"it does not start with {schemes[0]}://"
    # PostgreSQL takes several hosts, with commas.
    for place in found.netloc.rpartition("@")[2].split(","):
        host, colon, port = (place, "", "") if place.endswith("]") else place.partition(":")
        if place.startswith("[") and colon:
            host, colon, port = place.rpartition(":")
        if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            return "its port is no number from 1 to 65535 (in a password, write / : @ ? # as %XX)"
        if host_needed and not host:
            return "it names no host"
    if host_needed and found.scheme in ("nats", "tls") and found.path not in ("", "/"):
        return "something follows the host and port"
    return ""


def nats_address(nats_url: str | None, database_url: str | None = None) -> str:
    """The NATS server to use."""
    if nats_url:
        return nats_url
    dev = running_dev()
    if dev is not None and database_url in (None, "", dev.database_url):
        return dev.nats_url
    return DEFAULT_NATS_URL


def database_address(database_url: str | None, nats_url: str | None = None) -> str:
    """The database to use; raises `CommandError` where none is known."""
    if database_url:
        return database_url
    dev = running_dev()
    if dev is not None and nats_url in (None, "", dev.nats_url):
        return dev.database_url
    raise CommandError(
        "no database is given and no `stepweave dev` runs in this folder: set DATABASE_URL, such as "
        f"{DATABASE_EXAMPLE}, or start `stepweave dev`",
        ExitCode.USAGE,
    )


def running_dev(folder: Path | None = None) -> DevAddresses | None:
    """The servers of the `stepweave dev` that runs on a data folder (default: this folder's), if one does."""
    if sys.platform == "win32":
        return None  # no embedded servers there
    import fcntl

    path = (folder or data_folder()) / DEV_FILE
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return None  # nobody holds it: what wrote it is gone
        found = json.loads(os.read(file, 16_384) or b"null")
        return DevAddresses(found["nats_url"], found["database_url"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    finally:
        os.close(file)


@contextmanager
def announced_dev(folder: Path, addresses: DevAddresses) -> Iterator[Path]:
    """Tell other commands of this folder where the servers are, as long as the block lasts.

    Gives the file's path; only this user can read it, since it holds passwords.
    """
    if sys.platform == "win32":
        raise CommandError("`stepweave dev` does not run on Windows: use WSL", ExitCode.UNAVAILABLE)
    import fcntl

    path = folder / DEV_FILE
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", "ascii")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"another `stepweave dev` uses the data folder {folder}: stop it, or give another --data-dir",
                ExitCode.REFUSED,
            ) from None
        text = json.dumps({"pid": os.getpid(), **addresses._asdict()}, indent=2) + "\n"
        os.fchmod(file, 0o600)
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)
        try:
            yield path
        finally:
            os.ftruncate(file, 0)
    finally:
        os.close(file)
