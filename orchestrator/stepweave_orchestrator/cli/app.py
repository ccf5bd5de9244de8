"""The commands put together, and the way in and out of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from . import (
    audit,
    bench,
    bulk,
    demo,
    dev,
    dlq,
    doctor,
    env,
    events,
    explaining,
    gates,
    migrate,
    new,
    orchestrator,
    projections,
    replay,
    schedule,
    step,
    task,
    task_actions,
    template,
    worker,
)
from .errors import ExitCode, explain
from .help_examples import add_examples

PROGRAM = "stepweave"
DEBUG_VARIABLE = "STEPWEAVE_DEBUG"

app = typer.Typer(
    name=PROGRAM,
    help="Workflows that survive crashes: templates, tasks, workers, history.",
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 refused, 5 unavailable.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from stepweave_orchestrator.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG_VARIABLE, help="Show where an error comes from.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


app.command()(dev.dev)
app.command()(demo.demo)
app.command()(new.new)
task_actions.add_to(task.app)
for _noun in (task, step, bulk, dlq, template, schedule, events):
    app.add_typer(_noun.app)
app.command("explain")(explaining.explain_task)
app.command()(replay.replay)
for _noun in (worker, orchestrator):
    app.add_typer(_noun.app)
for _app in (gates.limit_app, gates.circuit_app):
    app.add_typer(_app)
app.command()(env.env)
app.command()(migrate.migrate)
for _noun in (audit, projections):
    app.add_typer(_noun.app)
app.command()(doctor.doctor)
app.command()(bench.bench)


def command() -> Any:
    """The whole command line as one command object, for its help pages."""
    made = typer.main.get_command(app)
    add_examples(made)
    return made


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process; every error becomes a sentence and an exit code."""
    try:
        command().main(args=None if arguments is None else list(arguments), prog_name=PROGRAM)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0", "false"):
            raise
        code, text = explain(error)
        print(f"{PROGRAM}: {text}", file=sys.stderr)
        sys.exit(code)
    sys.exit(ExitCode.OK)
