"""The files of deploy/: read by a parser, or run by the real servers that they are for."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import nats
import nats.errors
import nats.js.api
import pytest
import yaml
from nats.aio.client import Client
from nats.aio.msg import Msg

from stepweave import Client as StepweaveClient
from stepweave import StepContext, Worker, step_handler
from stepweave.messaging import Connection
from stepweave.testing import eventually
from stepweave_eventstore.migrate import migrate
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_orchestrator.cli.health import Grade
from stepweave_orchestrator.cli.health_servers import of_nats
from stepweave_orchestrator.cli.load import orchestrator_loads
from stepweave_orchestrator.embedded import EmbeddedPostgres, binaries, ports
from stepweave_orchestrator.runtime.orchestrator import Orchestrator
from stepweave_orchestrator.runtime.present_workers import present_workers
from stepweave_orchestrator.runtime.settings import Settings
from stepweave_schemas import subjects

from .conftest import PATIENCE, in_place, template

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
TIMEOUT_SECONDS = 60.0


# The image


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_dockerfile_has_known_instructions_and_two_stages() -> None:
    known = {
        "FROM",
        "RUN",
        "COPY",
        "ENV",
        "WORKDIR",
        "USER",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert {name for name, _ in dockerfile()} <= known
    bases = [value for name, value in dockerfile() if name == "FROM"]
    assert len(bases) == 2
    assert bases[0].endswith(" AS build")
    assert not any("latest" in base or "/" in base for base in bases)


def test_the_image_runs_as_an_unprivileged_user_and_knows_whether_it_is_well() -> None:
    last_stage = dockerfile()[max(i for i, (name, _) in enumerate(dockerfile()) if name == "FROM") :]
    users = [value for name, value in last_stage if name == "USER"]
    assert len(users) == 1
    assert int(users[0].split(":")[0]) > 0
    after = [name for name, _ in last_stage[last_stage.index(("USER", users[0])) :]]
    assert "COPY" not in after and "RUN" not in after
    check = next(value for name, value in last_stage if name == "HEALTHCHECK")
    assert json.loads(check[check.index("[") :]) == ["stepweave", "doctor"]
    entry = {name: json.loads(value) for name, value in last_stage if name in ("ENTRYPOINT", "CMD")}
    assert entry == {"ENTRYPOINT": ["stepweave"], "CMD": ["orchestrator", "run"]}


def test_the_image_copies_what_exists_and_all_of_the_distribution() -> None:
    copied = []
    for name, value in dockerfile():
        if name == "COPY" and not value.startswith("--from"):
            *sources, _ = shlex.split(value)
            copied += sources
    for source in copied:
        assert (REPOSITORY / source).exists(), source
    packages = re.search(r"packages = \[(.*?)\]", (REPOSITORY / "pyproject.toml").read_text(), re.DOTALL)
    assert packages is not None
    for package in re.findall(r'"(.+?)"', packages[1]):
        assert any(package == source or package.startswith(f"{source}/") for source in copied), package


# Compose


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_every_service_is_complete(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"postgres", "nats", "roles", "migrate", "grants", "orchestrator", "worker"}
    jobs = {"roles", "migrate", "grants"}
    for name, service in services.items():
        assert "image" in service
        assert service["command"] is not None
        assert service["restart"] == ("no" if name in jobs else "unless-stopped"), name
        for network in service["networks"]:
            assert network in compose["networks"]
        for dependency, condition in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if dependency in jobs else "service_healthy"
            assert condition == {"condition": expected}, (name, dependency)
        if name not in jobs:
            test = service["healthcheck"]["test"]
            assert test[0] == "CMD" and len(test) > 1
            assert {"interval", "timeout", "retries"} <= set(service["healthcheck"])
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = volume.rsplit(":", 2 if volume.endswith(":ro") else 1)[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file(), volume
            elif not source.startswith("${"):
                assert source in compose["volumes"], volume


def test_the_order_of_the_first_start(compose: dict[str, Any]) -> None:
    services = compose["services"]
    chain = ["postgres", "roles", "migrate", "grants", "orchestrator", "worker"]
    for before, after in itertools.pairwise(chain):
        assert before in services[after]["depends_on"], (before, after)
    assert services["migrate"]["command"] == ["migrate"]
    assert services["orchestrator"]["command"] == ["orchestrator", "run"]
    assert services["orchestrator"]["deploy"]["replicas"] == 2
    assert "worker run" in services["worker"]["entrypoint"][-1]


def test_who_reaches_what(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for port in service.get("ports", []):
            assert name == "nats" and port.startswith("127.0.0.1:"), "only NATS, and only on loopback"
    assert compose["networks"]["data"] == {"internal": True}
    assert services["worker"]["networks"] == ["bus"]
    assert "DATABASE_URL" not in services["worker"]["environment"]
    assert "//stepweave_owner:" in services["migrate"]["environment"]["DATABASE_URL"]
    assert "//stepweave_service:" in services["orchestrator"]["environment"]["DATABASE_URL"]
    for name in ("orchestrator", "worker"):
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["read_only"] is True


def test_secrets_come_from_the_env_file_and_none_is_in_the_repository(compose: dict[str, Any]) -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    without_refusal = re.findall(r"(?<!\$)\$\{\w+\}", (DEPLOY / "compose.yaml").read_text())
    assert not without_refusal, "an empty variable must be refused"
    offered = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE))
    assert used == set(offered)
    assert not any(value for name, value in offered.items() if name.endswith("PASSWORD"))
    assert ".env" in (DEPLOY / ".gitignore").read_text().splitlines()
    in_nats_conf = set(re.findall(r"\$(NATS_\w+)", (DEPLOY / "nats.conf").read_text()))
    assert in_nats_conf == set(compose["services"]["nats"]["environment"])


# NATS

PASSWORDS = {
    f"NATS_{name}_PASSWORD": f"p{uuid.uuid4().hex}" for name in ("ORCHESTRATOR", "WORKER", "CLIENT", "SYSTEM")
}


def nats_check(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binaries.nats_server(), "-t", "-c", config],
        env=PASSWORDS,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


@pytest.fixture
def production_nats(tmp_path: Path) -> Iterator[int]:
    """The port of a server that runs deploy/nats.conf, with another folder and other ports."""
    port, http = ports.pick(), ports.pick()
    text = (DEPLOY / "nats.conf").read_text()
    for old, new in (
        ('listen: "0.0.0.0:4222"', f'listen: "127.0.0.1:{port}"'),
        ('http: "127.0.0.1:8222"', f'http: "127.0.0.1:{http}"'),
        ('store_dir: "/data"', f'store_dir: "{tmp_path / "data"}"'),
        ("max_file_store: 20GB", "max_file_store: 20MB"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    config = tmp_path / "nats.conf"
    config.write_text(text)
    log = tmp_path / "nats.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [binaries.nats_server(), "-c", config], env=PASSWORDS, stdout=output, stderr=output
        )
    try:
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(TIMEOUT_SECONDS)
    assert "[ERR]" not in log.read_text().replace("Authorization Violation", "")


@asynccontextmanager
async def login(port: int, user: str) -> AsyncIterator[Client]:
    async def quiet(error: Exception) -> None:
        """nats-py prints errors otherwise; what matters here is asserted."""

    password = PASSWORDS[f"NATS_{user.upper()}_PASSWORD"]
    client = await nats.connect(
        f"nats://{user}:{password}@127.0.0.1:{port}",
        max_reconnect_attempts=100,  # the server may still be starting
        reconnect_time_wait=0.05,
        error_cb=quiet,
    )
    try:
        yield client
    finally:
        await client.close()


def test_nats_accepts_the_file_and_refuses_it_without_passwords(tmp_path: Path) -> None:
    done = nats_check(DEPLOY / "nats.conf")
    assert done.returncode == 0, done.stderr
    with_tls = tmp_path / "nats.conf"
    with_tls.write_text(
        (DEPLOY / "nats.conf").read_text().replace("# include ./tls.conf", "include ./tls.conf")
    )
    readme = (DEPLOY / "README.md").read_text()
    block = re.search(r"^    tls \{.*?^    \}$", readme, re.DOTALL | re.MULTILINE)
    assert block is not None
    (tmp_path / "tls.conf").write_text(block[0].replace("/etc/stepweave/certs", str(tmp_path)))
    done = nats_check(with_tls)
    assert "server.crt: no such file" in done.stdout + done.stderr, "the block is read up to its files"
    missing = subprocess.run(
        [binaries.nats_server(), "-t", "-c", DEPLOY / "nats.conf"], env={}, capture_output=True, text=True
    )
    assert missing.returncode != 0


async def make_streams(orchestrator: Client) -> None:
    jetstream = orchestrator.jetstream()
    await jetstream.add_stream(name=subjects.CMD_STREAM, subjects=list(subjects.CMD_STREAM_SUBJECTS))
    for namespace in ("default", "other"):
        stream = subjects.dispatch_stream(namespace)
        await jetstream.add_stream(
            name=stream,
            subjects=[subjects.dispatch_stream_subjects(namespace)],
            retention=nats.js.api.RetentionPolicy.WORK_QUEUE,
        )
        await jetstream.add_consumer(
            stream,
            nats.js.api.ConsumerConfig(
                durable_name=subjects.dispatch_consumer("standard", "normal"),
                ack_policy=nats.js.api.AckPolicy.EXPLICIT,
                filter_subject=subjects.dispatches(namespace, "standard", "normal"),
            ),
        )


def pull_subject(namespace: str) -> str:
    consumer = subjects.dispatch_consumer("standard", "normal")
    return f"$JS.API.CONSUMER.MSG.NEXT.{subjects.dispatch_stream(namespace)}.{consumer}"


async def assert_out_of_reach(client: Client, subject: str) -> None:
    """Nobody answers on `subject`, or JetStream itself does: that this account has none."""
    try:
        answer = await client.request(subject, b"{}", timeout=TIMEOUT_SECONDS)
    except nats.errors.NoRespondersError:
        return
    assert json.loads(answer.data)["error"]["description"] == "JetStream not enabled for account", subject


PULL = json.dumps({"batch": 1, "expires": 10_000_000_000}).encode()


async def test_a_worker_does_its_work_through_its_account(production_nats: int) -> None:
    async with (
        login(production_nats, "orchestrator") as orchestrator,
        login(production_nats, "worker") as worker,
    ):
        await make_streams(orchestrator)
        jetstream = orchestrator.jetstream()
        await jetstream.publish(subjects.dispatch("default", "standard", "normal", "some-token"), b"do it")

        inbox = worker.new_inbox()
        deliveries = await worker.subscribe(inbox)
        await worker.publish(pull_subject("default"), PULL, reply=inbox)
        dispatch = await deliveries.next_msg(TIMEOUT_SECONDS)
        assert dispatch.data == b"do it"
        await worker.publish(dispatch.reply, b"+WPI")
        result = subjects.result("default", 3, "some-task")
        stored = await worker.request(result, b"{}", timeout=TIMEOUT_SECONDS)
        assert json.loads(stored.data)["stream"] == subjects.CMD_STREAM
        await worker.request(dispatch.reply, b"+ACK", timeout=TIMEOUT_SECONDS)
        assert (await jetstream.get_last_msg(subjects.CMD_STREAM, result)).data == b"{}"
        assert (await jetstream.stream_info("DISP_default")).state.messages == 0

        notices = await worker.subscribe(subjects.cancel_notice("default"))
        await in_place(worker)
        await orchestrator.publish(subjects.cancel_notice("default"), b"stop")
        assert (await notices.next_msg(TIMEOUT_SECONDS)).data == b"stop"


async def test_a_worker_reaches_nothing_else(production_nats: int) -> None:
    async with (
        login(production_nats, "orchestrator") as orchestrator,
        login(production_nats, "worker") as worker,
    ):
        await make_streams(orchestrator)
        jetstream = orchestrator.jetstream()
        await jetstream.publish(subjects.dispatch("other", "standard", "normal", "some-token"), b"secret")
        for subject in (
            "$JS.API.INFO",
            "$JS.API.STREAM.DELETE.DISP_default",
            "$JS.API.STREAM.PURGE.DISP_default",
            "$JS.API.STREAM.MSG.GET.DISP_default",
            "$JS.API.CONSUMER.DELETE.DISP_default.standard__normal",
            "$JS.API.STREAM.DELETE.DISP_other",
            pull_subject("other"),
            subjects.result("other", 0, "some-task"),
            subjects.command(0, "some-task"),
            subjects.dispatch("default", "standard", "normal", "some-token"),
            f"{subjects.API_PREFIX}.task.create",
        ):
            await assert_out_of_reach(worker, subject)

        # A reply subject that is an API subject: within one account, this deleted a stream of another namespace.
        everything = await worker.subscribe(">")
        heard = await orchestrator.subscribe("sw.ctl.>")
        await in_place(orchestrator)
        for target in ("DISP_other", "DISP_default", "CMD"):
            for action in ("DELETE", "PURGE"):
                await worker.publish(pull_subject("default"), PULL, reply=f"$JS.API.STREAM.{action}.{target}")
        await worker.publish(subjects.cancel_notice("default"), b"forged")
        for n in range(6):
            await jetstream.publish(
                subjects.dispatch("default", "standard", "normal", "some-token"), b"%d" % n
            )
        # Each of the six was given to one of the pulls above, so these were all acted on.
        # Its own pulls and its notice it hears too, in any order with them.
        deliveries: list[Msg] = []
        while not {b"forged", *(b"%d" % n for n in range(6))} <= {m.data for m in deliveries}:
            deliveries.append(await everything.next_msg(TIMEOUT_SECONDS))
        assert not any(m.data == b"secret" for m in deliveries)
        for stream, count in (("DISP_other", 1), ("DISP_default", 6), ("CMD", 0)):
            assert (await jetstream.stream_info(stream)).state.messages == count, stream
        await orchestrator.publish(subjects.cancel_notice("default"), b"real")
        assert (await heard.next_msg(TIMEOUT_SECONDS)).data == b"real", "a worker's own notice stays with it"


async def test_a_client_reaches_the_api_only(production_nats: int) -> None:
    async with (
        login(production_nats, "orchestrator") as orchestrator,
        login(production_nats, "client") as client,
    ):
        await make_streams(orchestrator)
        create = subjects.api("task", "create")

        async def answer(message: Any) -> None:
            await message.respond(b"created " + message.data)

        await orchestrator.subscribe(create, cb=answer)
        await in_place(orchestrator)
        assert (await client.request(create, b"it", timeout=TIMEOUT_SECONDS)).data == b"created it"
        for subject in ("$JS.API.INFO", pull_subject("default"), subjects.result("default", 0, "some-task")):
            await assert_out_of_reach(client, subject)


def address(port: int, user: str) -> str:
    """Where a user of deploy/nats.conf logs in."""
    return f"nats://{user}:{PASSWORDS[f'NATS_{user.upper()}_PASSWORD']}@127.0.0.1:{port}"


@step_handler("large")
def large() -> str:
    return "x" * 200_000


@step_handler("sum")
def together(context: StepContext) -> int:
    return sum(len(context.get_dependency_result(name)) for name in ("one", "two"))


async def test_the_whole_system_works_through_the_accounts(production_nats: int, database_url: str) -> None:
    """Each part with the account that the set-up gives it: what it needs and no test by hand thinks of, is missed here."""
    await migrate(database_url)
    client_url, worker_url = address(production_nats, "client"), address(production_nats, "worker")
    steps: list[dict[str, Any]] = [
        {"name": "one", "handler": "large"},
        {"name": "two", "handler": "large"},
        {"name": "both", "handler": "sum", "dependencies": ["one", "two"]},
    ]
    given: dict[str, Any] = {**PATIENCE, "owner": "only", "feed_bytes_max": 1_000_000}
    store = await PostgresEventStore.connect(database_url)
    async with (
        login(production_nats, "orchestrator"),  # it may still be starting
        await Connection.open(address(production_nats, "orchestrator"), name="only") as link,
    ):
        settings = Settings(database_url=database_url, nats_url="given", **given)
        orchestrator = Orchestrator(settings, store, link)
        await orchestrator.start()
        try:
            async with (
                Worker(worker_url, handlers=[large, together]) as worker,
                await Connection.open(client_url, name="client") as client_link,
            ):
                client = StepweaveClient(connection=client_link)
                await client.register_template(template("sums", steps))
                task = await client.create_task("sums", timeout_seconds=TIMEOUT_SECONDS)
                # Results that do not fit into a dispatch are asked for.
                done = await client.wait_for_task(task.task_uuid, timeout_seconds=TIMEOUT_SECONDS)
                assert done.status == "complete", done

                async def shown() -> bool:
                    return [one["worker_id"] for one in await present_workers(link)] == [worker.worker_id]

                await eventually(shown, timeout_seconds=TIMEOUT_SECONDS, what="the worker's presence")
                assert [load.owner for load in await orchestrator_loads(client_link)] == ["only"]
                # The health checks of the containers.
                for url in (client_url, worker_url, address(production_nats, "orchestrator")):
                    found = await of_nats(url, known=True)
                    assert not [one for one in found if one.grade is Grade.FAIL], found
        finally:
            await orchestrator.stop()
            await store.close()


async def test_clients_hear_of_fast_events(production_nats: int) -> None:
    subject = subjects.at_once(subjects.event("default", "order", "t", subjects.domain_event("order.paid")))
    async with (
        login(production_nats, "orchestrator") as orchestrator,
        login(production_nats, "client") as client,
    ):
        heard = await client.subscribe("sw.now.default.>")
        await in_place(client)
        await orchestrator.publish(subject, b"paid")
        assert (await heard.next_msg(TIMEOUT_SECONDS)).subject == subject


# PostgreSQL


@pytest.fixture
def production_postgres(postgres_folder: Path) -> EmbeddedPostgres:
    """A PostgreSQL, not started, with deploy/postgres/postgresql.conf."""
    cluster = postgres_folder / "cluster"
    shutil.copyfile(DEPLOY / "postgres" / "postgresql.conf", cluster / "production.conf")
    (cluster / "production.conf").chmod(0o644)
    with (cluster / "postgresql.conf").open("a") as config:
        config.write("\ninclude 'production.conf'\n")
    return EmbeddedPostgres(postgres_folder)


async def test_postgres_takes_every_setting(production_postgres: EmbeddedPostgres) -> None:
    async with production_postgres:
        connection = await asyncpg.connect(production_postgres.dsn)
        try:
            rows = await connection.fetch(
                "SELECT name, setting, error FROM pg_file_settings WHERE sourcefile LIKE '%production.conf'"
            )
            # The embedded server's own command line has the last word on where it listens.
            assert [dict(row) for row in rows if row["error"] and row["name"] != "listen_addresses"] == []
            text = (DEPLOY / "postgres" / "postgresql.conf").read_text()
            wanted = dict(re.findall(r"^(\w+) *= *(.*?)(?: *#.*)?$", text, re.MULTILINE))
            assert {row["name"] for row in rows} == set(wanted)
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                assert await connection.fetchval("SELECT current_setting($1)", name) == "on"
            assert await connection.fetchval("SHOW shared_buffers") == wanted["shared_buffers"]
        finally:
            await connection.close()


def run_roles_sql(server: EmbeddedPostgres, **passwords: str) -> str:
    parts = urlsplit(server.dsn)
    done = subprocess.run(
        [
            binaries.postgres_programs() / "psql",
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            f"--file={DEPLOY / 'postgres' / 'roles.sql'}",
        ],
        env={
            "PGHOST": str(parts.hostname),
            "PGPORT": str(parts.port),
            "PGUSER": str(parts.username),
            "PGPASSWORD": str(parts.password),
            "PGDATABASE": parts.path[1:],
            "PATH": os.defpath,
            **passwords,
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def as_role(server: EmbeddedPostgres, role: str, password: str) -> str:
    parts = urlsplit(server.dsn)
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.hostname}:{parts.port}"))


async def test_the_service_can_work_and_can_not_change_events(production_postgres: EmbeddedPostgres) -> None:
    passwords = {"STEPWEAVE_OWNER_PASSWORD": "powner", "STEPWEAVE_SERVICE_PASSWORD": "pservice"}
    async with production_postgres as server:
        owner, service = (as_role(server, f"stepweave_{r}", f"p{r}") for r in ("owner", "service"))
        # The order of compose.yaml: roles, migrate, grants; then once more, as an upgrade does.
        for applied in (True, False):
            await asyncio.to_thread(run_roles_sql, server, **passwords)
            assert bool(await migrate(owner)) is applied
            await asyncio.to_thread(run_roles_sql, server)
        connection = await asyncpg.connect(service)
        try:
            await check_service(connection)
        finally:
            await connection.close()
        connection = await asyncpg.connect(owner)
        try:
            for change in CHANGES:
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="events are never changed"):
                    await connection.execute(change)
        finally:
            await connection.close()


INSERT_EVENT = """
    INSERT INTO stepweave.events (position, recorded_at, task_id, shard, version, schema_version, type,
                                  correlation_id, causation_id, actor, data, hash)
    VALUES (1, now(), gen_random_uuid(), 0, 1, 1, 'task.created', 'c', 'c', 'test', '{}', '\\x00')
"""
CHANGES = (
    "UPDATE stepweave.events SET type = 'forged'",
    "DELETE FROM stepweave.events",
    "TRUNCATE stepweave.events",
)


async def check_service(connection: asyncpg.Connection) -> None:
    await connection.execute(INSERT_EVENT)
    # PostgreSQL answers this with a warning only; it grants nothing.
    await connection.execute("GRANT UPDATE, DELETE ON stepweave.events TO stepweave_service")
    for change in CHANGES:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
            await connection.execute(change)
    for evasion in (
        "ALTER TABLE stepweave.events DISABLE TRIGGER ALL",
        "DROP TABLE stepweave.events",
        "DROP SCHEMA stepweave CASCADE",
        "SET ROLE stepweave_owner",
        "SELECT stepweave.grant_service('stepweave_service')",
        "SET session_replication_role = replica",
        "CREATE TABLE stepweave.mine ()",
        "CREATE TABLE public.mine ()",
    ):
        try:
            await connection.execute(evasion)
        except asyncpg.InsufficientPrivilegeError:
            continue
        pytest.fail(f"the service may do this: {evasion}")
    assert await connection.fetchval("SELECT type FROM stepweave.events") == "task.created"
    # What its work needs; the tables say so themselves.
    await connection.execute("INSERT INTO stepweave.shards (shard) VALUES (0)")
    await connection.execute("UPDATE stepweave.shards SET epoch = epoch + 1")
    await connection.execute("INSERT INTO stepweave.wakeups VALUES (gen_random_uuid(), 0, now())")
    await connection.execute("DELETE FROM stepweave.wakeups")
    for table in (
        "installation",
        "snapshots",
        "tasks",
        "templates",
        "orchestrators",
        "projection_checkpoints",
    ):
        assert await connection.fetchval(f"SELECT count(*) FROM stepweave.{table}") == 0
    assert await connection.fetchval("SHOW statement_timeout") == "1min"
