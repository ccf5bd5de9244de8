"""The last step before a server's own program: run as a script, it becomes the server.

It gives up root where it is told to, asks the kernel to stop the server when the process that started it
dies, and then replaces itself, so that the process id stays. It is a script rather than `preexec_fn`, because
that is unsafe in a process with threads; and it imports nothing but the standard library, to be quick.

    launch.py PARENT_PID DEATH_SIGNAL UID GID PROGRAM [ARGUMENT...]     (UID and GID are -1 to stay as it is)
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the server; does not return."""
    parent_pid, death_signal, uid, gid = (int(argument) for argument in sys.argv[1:5])
    command = sys.argv[5:]
    # Loaded while we may still read Python's own files.
    prctl = _load_prctl()
    os.umask(0o077)
    if uid != -1:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if prctl is not None:
        # After the change of account, which would clear it.
        prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent_pid:
            sys.exit("the process that started this server is gone")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execv(command[0], command)


def _load_prctl() -> Callable[..., int] | None:
    """The call that makes the kernel send a signal when the parent dies; only Linux has it."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes
    except ImportError:  # a Python built without libffi: its servers outlive it when it is killed
        return None
    call: Callable[..., int] = ctypes.CDLL(None).prctl
    return call


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"can not start {sys.argv[5]}: {error}")
