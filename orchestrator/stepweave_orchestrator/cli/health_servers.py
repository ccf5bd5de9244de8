"""The checks of NATS and Postgres, and of who works on them."""

from __future__ import annotations

from typing import Any, Final

import nats.errors
from nats.js.errors import APIError

from stepweave.messaging import Connection, MessagingError
from stepweave_schemas import api, subjects
from stepweave_schemas.load import OrchestratorLoad

from .addresses import without_secrets
from .errors import CommandError
from .health import (
    PAYLOAD_BYTES_MIN,
    Finding,
    Grade,
    clock_skew,
    fail,
    now_seconds,
    ok,
    unreachable,
    warn,
)
from .load import orchestrator_loads
from .presence import missing_handlers, workers_present

_TIMEOUT_SECONDS: Final = 5.0
_NATS_VERSION_MIN: Final = (2, 11)
_POSTGRES_MAJOR_MIN: Final = 14
#: JetStream's `err_code`.
_NOT_FOR_THIS_ACCOUNT: Final = 10039
_START_ORCHESTRATOR: Final = "start one: `stepweave orchestrator run`"


async def of_nats(url: str, *, known: bool) -> list[Finding]:
    """The server, JetStream, streams, orchestrators that answer, workers. `known`: somebody gave the address."""
    shown = without_secrets(url)
    try:
        connection = await Connection.open(
            url, name="stepweave-doctor", connect_timeout_seconds=_TIMEOUT_SECONDS / 2
        )
    except MessagingError as error:
        if known:
            return [unreachable("NATS", error, "start the server, or correct NATS_URL")]
        return [
            warn(
                "NATS",
                f"no address is given, and nothing answers at {shown}",
                "set NATS_URL, or start `stepweave dev`",
            )
        ]
    try:
        if await _has_no_jetstream(connection):
            return [_nats_server(connection, shown), *await _without_jetstream(connection)]
        return [
            _nats_server(connection, shown),
            *await _jetstream(connection),
            await _streams(connection),
            *await _api(connection),
            await _workers(connection),
        ]
    finally:
        await connection.close()


def _nats_server(connection: Connection, shown: str) -> Finding:
    client = connection.client
    version = client.connected_server_version
    limit = connection.max_payload_bytes
    found = (
        f"{version.major}.{version.minor}.{version.patch} at {shown}, messages up to {limit // 1024:,} KiB"
    )
    if (version.major, version.minor) < _NATS_VERSION_MIN:
        return fail("NATS", found, "use NATS 2.11 or newer: per-message time to live is needed")
    if limit < PAYLOAD_BYTES_MIN:
        return warn("NATS", found, f"set max_payload to at least {PAYLOAD_BYTES_MIN} in nats.conf")
    return ok("NATS", found)


async def _has_no_jetstream(connection: Connection) -> bool:
    """Whether the server says that JetStream is not for this account."""
    try:
        await connection.client.jsm(timeout=_TIMEOUT_SECONDS).account_info()
    except APIError as error:
        return error.err_code == _NOT_FOR_THIS_ACCOUNT
    except (nats.errors.Error, TimeoutError):
        return False
    return False


async def _without_jetstream(connection: Connection) -> list[Finding]:
    """An account of clients or workers needs no JetStream of its own, if orchestrators in another one answer it."""
    answers = await _api(connection)
    if all(one.grade is not Grade.FAIL for one in answers):
        return [ok("JetStream", "not for this account, which is one of clients or workers"), *answers]
    try:
        # All that a worker may ask.
        await connection.request(
            api.operation_subject("task.results"), b"{}", timeout_seconds=_TIMEOUT_SECONDS
        )
    except MessagingError:
        return [*await _jetstream(connection), *answers]
    return [
        ok("JetStream", "not for this account, which is one of workers"),
        ok("API", "an orchestrator answers workers; what clients ask is not for this account"),
    ]


async def _jetstream(connection: Connection) -> list[Finding]:
    try:
        account = await connection.client.jsm(timeout=_TIMEOUT_SECONDS).account_info()
    except (APIError, nats.errors.Error, TimeoutError) as error:
        return [
            fail(
                "JetStream",
                f"does not answer ({error or type(error).__name__})",
                "put `jetstream { store_dir: … }` into nats.conf, or enable it for this account",
            )
        ]
    limit = account.limits.max_storage
    used = f"{account.storage / 1024**2:,.0f} MiB stored"
    if limit and limit > 0:
        found = f"{used} of {limit / 1024**2:,.0f} MiB, {account.streams} streams"
        if account.storage > 0.9 * limit:
            return [
                warn(
                    "JetStream", found, "raise the account's max_storage, or shorten STEPWEAVE_FEED_BYTES_MAX"
                )
            ]
        return [ok("JetStream", found)]
    return [ok("JetStream", f"{used}, no limit, {account.streams} streams")]


async def _streams(connection: Connection) -> Finding:
    wanted = {subjects.CMD_STREAM, subjects.LOG_STREAM, subjects.EVT_STREAM}
    try:
        manager = connection.client.jsm(timeout=_TIMEOUT_SECONDS)
        found = {info.config.name: info for info in await manager.streams_info()}
    except (APIError, nats.errors.Error, TimeoutError) as error:
        return fail("streams", f"cannot be listed ({error or type(error).__name__})", "check JetStream first")
    missing = sorted(wanted - found.keys())
    if missing:
        return warn("streams", f"{', '.join(missing)} missing", "an orchestrator makes them when it starts")
    ours = [name for name in found if name in wanted or str(name).startswith("DISP_")]
    consumers = sum(found[name].state.consumer_count or 0 for name in ours)
    waiting = sum(found[name].state.messages or 0 for name in ours if str(name).startswith("DISP_"))
    text = f"{len(ours)} with {consumers} consumers; {waiting:,} dispatches wait or run"
    return ok("streams", text)


async def _api(connection: Connection) -> list[Finding]:
    try:
        await connection.request(
            api.operation_subject("template.list"), b"{}", timeout_seconds=_TIMEOUT_SECONDS
        )
    except MessagingError as error:
        return [fail("API", f"no orchestrator answers ({type(error).__name__})", _START_ORCHESTRATOR)]
    try:
        return [ok("API", "an orchestrator answers"), of_loads(await orchestrator_loads(connection))]
    except (CommandError, MessagingError):
        # This account may ask the API and not for its statistics.
        return [ok("API", "an orchestrator answers")]


def of_loads(loads: list[OrchestratorLoad]) -> Finding:
    """Whether every orchestrator takes new tasks, of every namespace."""
    full = [
        f"{load.owner} ({', '.join(one.name for one in load.gauges if one.state == 'closed')})"
        for load in loads
        if load.state == "closed"
    ]
    crowded = sorted({one.namespace for load in loads for one in load.namespaces if one.state == "closed"})
    if not full and not crowded:
        return ok(
            "load",
            "1 orchestrator takes new tasks"
            if len(loads) == 1
            else f"{len(loads)} orchestrators take new tasks",
        )
    found = [f"creates are refused by {', '.join(full)}"] if full else []
    if crowded:
        found.append(f"creates are refused in {', '.join(crowded)}, whose workers are behind")
    return warn("load", "; ".join(found), "`stepweave orchestrator status` shows what is at its limit")


async def _workers(connection: Connection) -> Finding:
    try:
        found = await workers_present(connection)
    except CommandError as error:
        return fail("workers", str(error), "check JetStream first")
    missing = list(await missing_handlers(connection))
    if missing:
        named = ", ".join(f"{handler} of namespace {namespace}" for namespace, handler in missing[:5])
        named += f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        return warn(
            "workers",
            f"{len(found)}, and steps wait for handlers that nobody serves: {named}",
            "start a worker that has them; `stepweave dlq stale` lists the tasks",
        )
    if not found:
        return warn("workers", "none", "start one: `stepweave worker run MODULE`")
    namespaces = sorted({name for one in found for name in one.get("namespaces") or ()})
    handlers = {name for one in found for name in one.get("handlers") or ()}
    return ok(
        "workers",
        f"{len(found)} with {len(handlers)} handlers, for the namespaces {', '.join(namespaces)}",
    )


async def of_postgres(url: str) -> list[Finding]:
    """The server, the migrations, the role's rights, the shards and their owners, the clock."""
    try:
        import asyncpg
    except ModuleNotFoundError:
        return [
            warn("Postgres", "not looked at: the server parts are missing", "pip install 'stepweave[server]'")
        ]
    from stepweave_eventstore.postgres_errors import translated
    from stepweave_eventstore.store import EventStoreError

    try:
        with translated():
            connection = await asyncpg.connect(
                url, timeout=_TIMEOUT_SECONDS, command_timeout=_TIMEOUT_SECONDS
            )
    except (EventStoreError, ValueError) as error:
        return [unreachable("Postgres", error, "start the server, or correct DATABASE_URL")]
    try:
        with translated():
            return await _in_database(connection, url)
    except EventStoreError as error:
        return [unreachable("Postgres", error, "look into its log")]
    finally:
        connection.terminate()


async def _in_database(connection: Any, url: str) -> list[Finding]:
    from stepweave_eventstore.migrate import MigrationError, pending

    version = connection.get_server_version()
    number = str(await connection.fetchval("SHOW server_version")).partition(" ")[0]
    shown = f"{number} at {without_secrets(url)}"
    findings = [
        ok("Postgres", shown)
        if version.major >= _POSTGRES_MAJOR_MIN
        else fail("Postgres", shown, f"use PostgreSQL {_POSTGRES_MAJOR_MIN} or newer")
    ]
    asked_at = now_seconds()
    server_seconds = float(await connection.fetchval("SELECT date_part('epoch', clock_timestamp())"))
    findings.append(clock_skew(server_seconds, asked_at, now_seconds()))
    try:
        missing = await pending(url, timeout_seconds=_TIMEOUT_SECONDS)
    except MigrationError as error:
        return [*findings, fail("migrations", str(error), "use the release that this database belongs to")]
    if missing:
        return [*findings, fail("migrations", f"{len(missing)} are missing", "run `stepweave migrate`")]
    return [
        *findings,
        ok("migrations", "all applied"),
        await _rights(connection),
        await _shards(connection),
    ]


async def _rights(connection: Any) -> Finding:
    row = await connection.fetchrow(
        "SELECT current_user AS role,"
        " has_table_privilege('stepweave.events', 'SELECT') AND has_table_privilege('stepweave.events', 'INSERT')"
        " AND has_table_privilege('stepweave.shards', 'UPDATE') AS may_work,"
        " has_table_privilege('stepweave.events', 'UPDATE') OR has_table_privilege('stepweave.events', 'DELETE')"
        " AS may_change_history"
    )
    if not row["may_work"]:
        return fail(
            "rights",
            f"the role {row['role']} may not append events",
            f"as the owner: SELECT stepweave.grant_service('{row['role']}')",
        )
    if row["may_change_history"]:
        return warn(
            "rights",
            f"the role {row['role']} may change events",
            "fine for development; in production run as a role that only adds them (stepweave.grant_service)",
        )
    return ok("rights", f"the role {row['role']} may add events, not change them")


async def _shards(connection: Any) -> Finding:
    rows = await connection.fetch(
        "SELECT shard, owner, lease_until > now() AS held FROM stepweave.shards ORDER BY shard"
    )
    owners = sorted({row["owner"] for row in rows if row["held"]})
    free = [row["shard"] for row in rows if not row["held"]]
    if not rows:
        return warn("orchestrators", "none has ever run here", _START_ORCHESTRATOR)
    if not owners:
        return fail("orchestrators", f"none is alive; {len(rows)} shards have no owner", _START_ORCHESTRATOR)
    found = f"{len(owners)} alive ({', '.join(owners[:4])}), {len(rows)} shards"
    if free:
        return warn(
            "orchestrators",
            f"{found}, without owner: {', '.join(map(str, free[:16]))}",
            "wait a lease (10 s); if they stay free, look into the orchestrators' logs",
        )
    return ok("orchestrators", found)
