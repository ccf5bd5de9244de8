"""What every orchestrator says about its load, asked for and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from stepweave.messaging import Connection
from stepweave_schemas.load import LOAD_ENDPOINT, STATS_SUBJECT, OrchestratorLoad

from .errors import CommandError, ExitCode
from .output import print_table, say

#: How long the first answer may take, and how long after it others are waited for.
FIRST_SECONDS_MAX: Final = 3.0
OTHERS_SECONDS: Final = 0.3
ORCHESTRATORS_MAX: Final = 1_000


class _Endpoint(msgspec.Struct):
    name: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Statistics(msgspec.Struct):
    endpoints: list[_Endpoint] = []


async def orchestrator_loads(connection: Connection) -> list[OrchestratorLoad]:
    """What each orchestrator has under way, by owner; raises `CommandError` where none answers."""
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[Msg] = asyncio.Queue(ORCHESTRATORS_MAX)

    def take(message: Msg) -> None:
        if not answers.full():
            answers.put_nowait(message)

    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox, take)
    found: dict[str, OrchestratorLoad] = {}
    deadline = loop.time() + FIRST_SECONDS_MAX
    try:
        connection.send(STATS_SUBJECT, b"", reply=inbox)
        while len(found) < ORCHESTRATORS_MAX:
            try:
                async with asyncio.timeout_at(deadline):
                    load = _read(await answers.get())
            except TimeoutError:
                break
            if load is not None:
                found[load.owner] = load
            deadline = min(deadline, loop.time() + OTHERS_SECONDS)
    finally:
        await subscription.unsubscribe()
    if not found:
        raise CommandError(
            "no orchestrator answers; start one here with `stepweave dev`, or anywhere with "
            "`stepweave orchestrator run`",
            ExitCode.UNAVAILABLE,
        )
    return [found[owner] for owner in sorted(found)]


def _read(message: Msg) -> OrchestratorLoad | None:
    """The load in one orchestrator's statistics; `None` where it is of a version that does not tell."""
    try:
        statistics = msgspec.json.decode(message.data, type=_Statistics)
        for endpoint in statistics.endpoints:
            if endpoint.name == LOAD_ENDPOINT:
                return msgspec.json.decode(endpoint.data, type=OrchestratorLoad | None)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    return None


def print_loads(loads: Iterable[OrchestratorLoad]) -> None:
    """Tables for people."""
    for number, load in enumerate(loads):
        if number:
            say()
        refused = f"{load.creates_refused:,} refused"
        if load.refused_by:
            reasons = ", ".join(
                f"{count:,} for {reason}" for reason, count in sorted(load.refused_by.items())
            )
            refused += f" ({reasons})"
        say(
            f"{load.owner}: {load.state}; creates: {load.creates_admitted:,} taken, "
            f"{load.creates_per_second:,.1f} answered a second, {refused}"
        )
        print_table(
            ("gauge", ">now", ">limit", "state"),
            ((one.name, _number(one.value), _number(one.limit), one.state) for one in load.gauges),
            empty="no gauges",
        )
        if load.namespaces:
            print_table(
                ("namespace", ">steps", ">limit", ">held", ">bytes", ">limit", ">done a second", "state"),
                (_namespace_row(load, one) for one in load.namespaces),
                empty="no namespaces",
            )


def _namespace_row(load: OrchestratorLoad, one: Any) -> tuple[str, ...]:
    return (
        one.namespace,
        _number(one.steps),
        _number(load.namespace_steps_max),
        _number(one.held_steps),
        _number(one.dispatches_bytes),
        _number(load.namespace_bytes_max),
        f"{one.drained_per_second:,.1f}",
        one.state,
    )


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
