"""`stepweave limit` and `stepweave circuit`: what many tasks pass, and who waits there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from .errors import CommandError, ExitCode
from .options import TIMEOUT_SECONDS, NatsUrl, Output, TimeoutSeconds
from .output import OutputFormat, moment, print_fields, print_table, say, show
from .running import ask, client, run_async
from .task_input import who

if TYPE_CHECKING:
    from stepweave_schemas.api import GateItem, GateReply

limit_app = typer.Typer(
    name="limit", help="Concurrency keys and rates: who runs, who waits.", no_args_is_help=True
)
circuit_app = typer.Typer(
    name="circuit", help="Circuits of services: look, open, close.", no_args_is_help=True
)

Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Only this namespace.", metavar="NAMESPACE")
]
CircuitNamespace = Annotated[
    str, typer.Option("--namespace", "-n", help="The service's namespace.", metavar="NAMESPACE")
]
Service = Annotated[
    str, typer.Argument(metavar="SERVICE", help="Its `system_dependency`, or the name of the handler.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.", metavar="TEXT")]
#: Gates that one command lists.
LISTED_MAX: Final = 1_000


async def _listed(kinds: Sequence[str], namespace: str | None, nats_url: str | None, seconds: float) -> Any:
    found: list[GateItem] = []
    async with client(nats_url, seconds) as api:
        for kind in kinds:
            page = 1
            while True:
                answer = await api.list_gates(kind, namespace=namespace, page=page, per_page=200)
                found += answer.gates
                if not answer.has_next or len(found) >= LISTED_MAX:
                    break
                page += 1
    return found


@limit_app.command("list")
def list_limits(
    namespace: Namespace = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that nobody uses now.")] = False,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the slots of concurrency keys and the rates that are in use."""
    found = run_async(_listed(("slots", "rate"), namespace, nats_url, timeout_seconds))
    found = [one for one in found if every or one.status != "idle"]
    show(
        found,
        output,
        lambda: print_table(
            ("id", "kind", "namespace", "name", "state", ">running", ">waiting", ">limit"),
            (_limit_row(one) for one in found),
            empty="nothing is limited now; --all shows what was",
        ),
    )


def _limit_row(one: GateItem) -> tuple[object, ...]:
    limit = one.summary.get("limit")
    if limit is None:
        limit = f"{one.summary['per_second']:g}/s"
    return (
        one.gate_id,
        one.kind,
        one.namespace,
        one.name,
        one.status,
        one.summary.get("running"),
        one.summary["waiting"],
        limit,
    )


@limit_app.command("show")
def show_limit(
    gate_id: Annotated[str, typer.Argument(metavar="ID", help="As `stepweave limit list` shows it.")],
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show who holds a limit's slots and who waits for them, in order."""

    reply = ask(lambda api: api.get_gate(gate_id), nats_url, timeout_seconds)
    show(reply, output, lambda: _print_gate(reply))


@circuit_app.command("list")
def list_circuits(
    namespace: Namespace = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the circuits of services that have failed, or were opened by hand."""
    found = run_async(_listed(("circuit",), namespace, nats_url, timeout_seconds))
    show(
        found,
        output,
        lambda: print_table(
            ("namespace", "service", "state", ">failures", ">waiting", "changed", "last error"),
            (
                (
                    one.namespace,
                    one.name,
                    one.status,
                    one.summary["failures"],
                    one.summary["waiting"],
                    moment(one.summary["changed_at"]),
                    one.summary["last_error"],
                )
                for one in found
            ),
            empty="no service with a circuit breaker has failed",
        ),
    )


@circuit_app.command("show")
def show_circuit(
    service: Service,
    namespace: CircuitNamespace = "default",
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show a circuit: its state, who tries the service out, who waits."""
    from stepweave import NotFound
    from stepweave_schemas.gate import circuit_id

    async def work() -> GateReply:
        async with client(nats_url, timeout_seconds) as api:
            return await api.get_gate(circuit_id(namespace, service))

    try:
        reply = run_async(work())
    except NotFound:
        raise CommandError(
            f"{namespace}/{service} has no circuit yet: nothing of it has failed, or no step of the namespace names "
            "it; `stepweave circuit list` shows those that there are",
            ExitCode.NOT_FOUND,
        ) from None
    show(reply, output, lambda: _print_gate(reply))


@circuit_app.command("open")
def open_circuit(
    service: Service,
    open_seconds: Annotated[
        float,
        typer.Option(
            "--for", min=0.001, help="For how long; then a few steps try it out.", metavar="SECONDS"
        ),
    ],
    namespace: CircuitNamespace = "default",
    reason: Reason = "",
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Hold all steps with a circuit breaker that need a service, such as for its maintenance."""

    async def work() -> GateReply:
        async with client(nats_url, timeout_seconds) as api:
            return await api.open_circuit(
                service, open_seconds=open_seconds, namespace=namespace, reason=reason, opened_by=who()
            )

    reply = run_async(work())
    show(reply, output, lambda: _print_gate(reply))


@circuit_app.command("close")
def close_circuit(
    service: Service,
    namespace: CircuitNamespace = "default",
    reason: Reason = "",
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Let the steps that wait for a service go on now."""

    reply = ask(
        lambda api: api.close_circuit(service, namespace=namespace, reason=reason, closed_by=who()),
        nats_url,
        timeout_seconds,
    )
    show(reply, output, lambda: _print_gate(reply))


def _print_gate(reply: GateReply) -> None:
    gate = reply.gate
    print_fields(
        (
            ("kind", gate.kind),
            ("namespace", gate.namespace),
            ("name", gate.name),
            ("state", gate.status),
            ("limit", gate.summary.get("limit")),
            ("steps a second", gate.summary.get("per_second")),
            ("next at", moment(reply.next_at) if reply.next_at else None),
            ("opened by", gate.summary.get("opened_by") or None),
            ("reason", gate.summary.get("reason") or None),
            ("last error", gate.summary.get("last_error") or None),
            ("id", gate.gate_id),
        )
    )
    for title, count, rows in (
        ("tries it out" if gate.kind == "circuit" else "runs", reply.holders_count, reply.holders),
        ("waits", reply.waiting_count, reply.waiting),
    ):
        if count:
            say()
            print_table((title, "step", "since"), _rows(rows), empty="")
            if count > len(rows):
                say(f"and {count - len(rows)} more")


def _rows(some: Iterable[Any]) -> Iterable[tuple[object, ...]]:
    return ((one.task_uuid, one.step_name or "(the task)", moment(one.since)) for one in some)
