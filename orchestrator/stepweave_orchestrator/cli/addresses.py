"""Where NATS and Postgres are: what was given, else the `stepweave dev` of this folder, else the default.

`stepweave dev` writes the addresses of its servers to `dev.json` in its data folder and keeps the file locked
as long as it runs, so a file that a killed process left behind is recognised.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from .errors import CommandError, ExitCode

DEV_FILE: Final = "dev.json"
DEFAULT_DATA_DIR: Final = ".data"
#: Names the data folder for `dev` and for the commands that look for a running one.
DATA_DIR_VARIABLE: Final = "STEPWEAVE_DATA_DIR"
DEFAULT_NATS_URL: Final = "nats://127.0.0.1:4222"


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
        "postgresql://user:password@host:5432/stepweave, or start `stepweave dev`",
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
