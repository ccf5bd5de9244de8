"""`stepweave worker`: run handlers, and see who does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .addresses import nats_address
from .errors import CommandError
from .logs import LogFormat, LogLevel, LogLevelName, LogStyle
from .options import NatsUrl, Output
from .output import OutputFormat, moment, print_table, progress, show
from .running import connection, run_async

if TYPE_CHECKING:
    from stepweave import Registry

#: Missing handlers that `worker list` names.
MISSING_SHOWN_MAX = 10

app = typer.Typer(name="worker", help="Run handlers, and see who does.", no_args_is_help=True)


@app.command("run")
def run_(
    modules: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE…",
            help="Modules or packages with handlers, by name or as a path such as ./handlers.py.",
        ),
    ],
    namespaces: Annotated[
        list[str] | None,
        typer.Option(
            "--namespace",
            "-n",
            help="Namespace to serve; may be repeated. Default: default.",
            metavar="NAMESPACE",
        ),
    ] = None,
    queues: Annotated[
        list[str] | None,
        typer.Option("--queue", help="Queue to serve; may be repeated. Default: default.", metavar="QUEUE"),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Most steps at once, in each process.", metavar="N")
    ] = 100,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", min=1, max=256, help="So many equal processes, restarted if they die.", metavar="N"
        ),
    ] = 1,
    grace_seconds: Annotated[
        float,
        typer.Option("--grace", min=0, help="Seconds that running steps have at the end.", metavar="SECONDS"),
    ] = 30.0,
    resolve_imports: Annotated[
        bool,
        typer.Option(
            "--resolve-imports",
            help="Templates may name members of the modules directly, such as module:function.",
        ),
    ] = False,
    log_level: LogLevel = LogLevelName.INFO,
    log_format: LogFormat = LogStyle.CONSOLE,
    nats_url: NatsUrl = None,
    lifeline: Annotated[int | None, typer.Option("--lifeline", hidden=True)] = None,
) -> None:
    """Run the handlers of modules until SIGTERM or Ctrl-C.

    It then takes no new steps, hands back those that have not started and lets the others end. One process loads
    all its modules. Let every worker of a namespace and queue have all handlers used there: a step whose handler is not
    here goes back, and takes longer.
    """
    from .logs import configure_logs

    configure_logs(log_level, log_format)
    if processes > 1:
        from .worker_processes import WorkerSettings, supervise

        settings = WorkerSettings(
            modules=tuple(modules),
            namespaces=tuple(namespaces or ()),
            queues=tuple(queues or ()),
            concurrency=concurrency,
            grace_seconds=grace_seconds,
            resolve_imports=resolve_imports,
            log_level=log_level,
            log_format=log_format,
        )
        supervise(settings, processes, nats_address(nats_url))
        return

    from stepweave import Registry, Worker

    from .modules import load_modules

    loaded = load_modules(modules)
    registry = Registry(import_from=[module.__name__ for module in loaded] if resolve_imports else ())
    registry.discover(*loaded)
    if registry.empty:
        raise CommandError(
            f'there is no handler in {", ".join(modules)}: put @step_handler("name") on a function there'
        )
    if lifeline is not None:
        from .worker_processes import hold_lifeline

        methods = {name: _methods_of(registry, name) for name in registry.names}
        hold_lifeline(lifeline, methods, grace_seconds)
    worker = Worker(
        nats_address(nats_url),
        namespaces=namespaces or ("default",),
        queues=queues or ("default",),
        handlers=registry,
        concurrency=concurrency,
        grace_seconds=grace_seconds,
    )
    _run_quickly(worker.run())


def _methods_of(registry: Registry, name: str) -> list[str]:
    """The methods of a registered handler that a template may name."""
    from stepweave.method_names import HandlerMethodNotFound, callable_methods

    try:
        return callable_methods(registry.resolve(name).target)
    except HandlerMethodNotFound as error:
        # It has no `call`, and says what it has instead.
        return error.methods


def _run_quickly(work: Any) -> None:
    """Run on uvloop, where it exists."""
    if sys.platform == "win32":
        run_async(work)
        return
    import uvloop

    uvloop.run(work)


@app.command("list")
def list_(
    nats_url: NatsUrl = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the workers that are alive: what they serve, and how busy they are."""
    from .presence import missing_handlers, workers_present

    async def work() -> tuple[list[dict[str, Any]], dict[tuple[str, str], int]]:
        async with connection(nats_url) as link:
            return await workers_present(link), await missing_handlers(link)

    found, missing = run_async(work())
    show(
        found,
        output,
        lambda: print_table(
            ("worker", "namespaces", "queues", "handlers", ">running", ">at most", "since", "sdk"),
            (
                (
                    one.get("worker_id"),
                    one.get("namespaces"),
                    one.get("queues"),
                    one.get("handlers"),
                    one.get("running"),
                    one.get("concurrency"),
                    moment(str(one.get("started_at") or "")),
                    one.get("sdk"),
                )
                for one in found
            ),
            empty="no worker is there; `stepweave worker run MODULE` starts one",
        ),
    )
    for (namespace, handler), count in list(missing.items())[:MISSING_SHOWN_MAX]:
        progress(
            f"nobody serves handler {handler} of namespace {namespace}: {count} task(s) wait; stepweave dlq stale shows them"
        )
    if len(missing) > MISSING_SHOWN_MAX:
        progress(
            f"nobody serves {len(missing) - MISSING_SHOWN_MAX} more handlers; stepweave dlq stats lists them"
        )
