"""What can go wrong with an embedded server, told in one sentence."""

from __future__ import annotations

import errno
from enum import StrEnum
from pathlib import Path


class EmbeddedFailure(StrEnum):
    """The kinds of failure, for callers that react to one of them."""

    BINARY_MISSING = "binary_missing"
    PORT_TAKEN = "port_taken"
    DISK_FULL = "disk_full"
    NOT_WRITABLE = "not_writable"
    FOLDER_IN_USE = "folder_in_use"
    WRONG_VERSION = "wrong_version"
    NO_ACCOUNT = "no_account"
    DIED = "died"
    TIMED_OUT = "timed_out"
    NOT_RUNNING = "not_running"


class EmbeddedServerError(Exception):
    """An embedded server can not do what was asked.

    The message is one sentence that says what is wrong and what to do; where a server died, its last log
    lines follow. `failure` is the kind, `server` is "PostgreSQL", "NATS" or "the embedded servers".
    """

    def __init__(self, message: str, *, failure: EmbeddedFailure, server: str) -> None:
        super().__init__(message)
        self.failure = failure
        self.server = server


#: How every program words a full disk, whatever wrote to it.
DISK_FULL_TEXT = "No space left on device"


def disk_full(server: str, path: Path) -> EmbeddedServerError:
    """The error for a full disk below `path`."""
    return EmbeddedServerError(
        f"The disk that holds {path} is full: free some space, or choose another data folder.",
        failure=EmbeddedFailure.DISK_FULL,
        server=server,
    )


def from_os_error(error: OSError, *, server: str, path: Path) -> EmbeddedServerError:
    """Turn an `OSError` met while preparing the data folder into a sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(server, path)
    return EmbeddedServerError(
        f"The data folder {path} can not be used ({error.strerror or error}): "
        "make it writable for this user, or choose another data folder.",
        failure=EmbeddedFailure.NOT_WRITABLE,
        server=server,
    )
