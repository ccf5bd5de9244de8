"""The command line: `stepweave`. One module for each noun.

    stepweave dev handlers --templates template.yaml     everything on this machine
    stepweave task create default/greet --set name=Ada --watch

| module | what is in it |
|---|---|
| `app` | the commands put together, and the way in and out of a command |
| `errors` | exit codes, and every error as a sentence that says what to do next |
| `options`, `output`, `addresses` | what commands share: options, tables and JSON, where the servers are |
| `stack`, `worker_processes` | the processes behind `dev` and `demo`, started and stopped in order |
| `reference` | the page `docs/reference/cli.md` |

Rules. Data goes to stdout, progress and errors to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 not found,
4 refused, 5 unavailable. `stepweave --help` is quick: a command imports what it needs when it runs. The base
install has no Postgres driver; commands that read the event store say so in one sentence where it is missing.
"""

from __future__ import annotations


def main() -> None:
    """The entry point `stepweave`; ends the process."""
    try:
        from .app import run
    except KeyboardInterrupt:
        # Ctrl-C before the program is loaded.
        raise SystemExit(130) from None
    run()


__all__ = ["main"]
