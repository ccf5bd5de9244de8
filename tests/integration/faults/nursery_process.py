"""Starts the processes of a test that kills many: forked, so that what they import is loaded once.

Each line on stdin is JSON: the `script` of the next one, its `environment`, and the file for its `log`. Each start
and each end is a line on stdout: `<pid> started`, `<pid> ended <code>`, the code as in `subprocess`.
"""

import json
import os
import runpy
import signal
import sys
import traceback

import uvloop  # noqa: F401

import stepweave  # noqa: F401
import stepweave_orchestrator.runtime.process  # noqa: F401

living: set[int] = set()


def say(line: str) -> None:
    """Write one line at once; the handler of a signal may do so too."""
    os.write(1, f"{line}\n".encode())


def reap(*_: object) -> None:
    """Tell of those that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        living.discard(pid)
        say(f"{pid} ended {os.waitstatus_to_exitcode(status)}")


def run(script: str, environment: dict[str, str], log: str) -> None:
    """What the forked process does; does not return."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(environment)
        runpy.run_path(script, run_name="__main__")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


signal.signal(signal.SIGCHLD, reap)
say("ready")
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        run(**json.loads(line))
    living.add(pid)
    say(f"{pid} started")
# The test is over, however it ended: nothing of it may stay behind.
for pid in list(living):
    os.kill(pid, signal.SIGKILL)
