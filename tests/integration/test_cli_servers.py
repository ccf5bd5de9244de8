"""What production runs: `migrate`, `orchestrator run`, `worker run`; and the tools that need only Postgres."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.typed import PATIENCE_SECONDS, Program, Type, clean_environment, typing_here, until

from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.store import TaskFilter

_HANDLERS = """\
import os
from stepweave import step_handler

@step_handler("say_hello")
def say_hello(context):
    return {"pid": os.getpid(), "name": context.get_input("name")}

def direct(context):
    return {"direct": True}
"""
_TEMPLATE = "namespace: default\nname: hello\nversion: 1.0.0\nsteps:\n  - {name: only, handler: say_hello}\n"


@pytest.fixture
def stepweave(
    tmp_path: Path,
    database_url: str,
    nats_url: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Type:
    """Type a command in an empty folder, with the addresses of empty servers in the environment."""
    type_command = typing_here(capfd, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("NATS_URL", nats_url)
    (tmp_path / "handlers.py").write_text(_HANDLERS)
    (tmp_path / "template.yaml").write_text(_TEMPLATE)
    return type_command


class Programs:
    """Starts programs on the test's servers."""

    def __init__(self, folder: Path, database_url: str, nats_url: str) -> None:
        self._folder = folder
        self._environment = clean_environment(
            DATABASE_URL=database_url, NATS_URL=nats_url, STEPWEAVE_LEASE_MS="2000"
        )
        self.started: list[Program] = []

    def __call__(self, *words: str) -> Program:
        program = Program(self._folder, words, self._environment)
        self.started.append(program)
        return program


@pytest.fixture
def start(tmp_path: Path, database_url: str, nats_url: str) -> Iterator[Programs]:
    programs = Programs(tmp_path, database_url, nats_url)
    yield programs
    for program in reversed(programs.started):
        program.close()


def run_alone(work: Any) -> Any:
    return asyncio.run(work)


async def execute(dsn: str, *statements: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(dsn, timeout=60)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close(timeout=60)


async def listed(dsn: str) -> dict[str, str]:
    store = await PostgresEventStore.connect(dsn)
    try:
        rows, _ = await store.list_tasks(TaskFilter())
        return {row.task_id: row.status for row in rows}
    finally:
        await store.close()


def test_before_anything_is_set_up(stepweave: Type) -> None:
    check = stepweave("migrate", "--check")
    assert check.code == 1 and "0001_ledger" in check.out and "run `stepweave migrate`" in check.err
    assert stepweave("orchestrator", "run").code == 5
    answer = stepweave("audit", "verify")
    assert answer.code == 5 and "stepweave migrate" in answer.err
    doctor = stepweave("doctor", "-o", "json")
    assert doctor.code == 1
    found = {one["what"]: one for one in json.loads(doctor.out)}
    assert found["migrations"]["grade"] == "fail" and "stepweave migrate" in found["migrations"]["to_do"]
    assert found["API"]["grade"] == "fail" and found["workers"]["grade"] == "warn"
    assert found["NATS"]["grade"] == found["JetStream"]["grade"] == "ok"
    assert stepweave("events", "tail").code == 5
    assert stepweave("worker", "list").err.startswith("no worker is there")
    answer = stepweave("task", "list", "--timeout", "0.5")
    assert answer.code == 5 and "stepweave orchestrator run" in answer.err

    applied = stepweave("migrate")
    assert applied.code == 0 and applied.out == check.out
    assert stepweave("migrate", "--check").code == 0
    assert stepweave("audit", "verify").err.startswith("there are no shards yet")


def test_servers_that_cannot_be_reached(stepweave: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/x")
    answer = stepweave("doctor", "-o", "json")
    found = {one["what"]: one["grade"] for one in json.loads(answer.out)}
    assert answer.code == 1 and found["NATS"] == found["Postgres"] == "fail"
    assert "secret" not in answer.out
    monkeypatch.setenv("STEPWEAVE_LEASE_MS", "soon")
    answer = stepweave("orchestrator", "run")
    assert answer.code == 2 and "lease_ms" in answer.err


def test_production(stepweave: Type, start: Programs, database_url: str) -> None:
    """An orchestrator and two worker processes, a crash, a clean end, then the tools that work offline."""
    assert stepweave("migrate").code == 0
    orchestrator = start("orchestrator", "run", "--shards", "3", "--owner", "first")
    orchestrator.wait_for('"event":"ready"')
    lines = [json.loads(line) for line in orchestrator.err.splitlines()]
    [ready] = [line for line in lines if line["event"] == "ready"]
    assert ready["owner"] == "first" and ready["shards"] == [0, 1, 2]
    assert stepweave("template", "register", "template.yaml").code == 0
    workers = start("worker", "run", "./handlers.py", "--processes", "2", "--log-format", "json")
    workers.wait_for("2 worker processes run, with 1 handlers")

    def hello(*words: str) -> dict[str, Any]:
        answer = stepweave("task", "create", "hello", "-s", "name=x", "-w", *words, "-o", "json")
        assert answer.code == 0, answer.err
        found: dict[str, Any] = json.loads(answer.out)
        return found

    task = hello()
    children = [one for one in workers.family() if one.pid != workers.popen.pid]
    assert len(children) == 2
    children[0].kill()
    workers.wait_for("was ended by SIGKILL; starting it again")
    until(lambda: len(workers.family()) == 3, "a new worker process")
    assert hello()["status"] == "complete"
    until(lambda: len(json.loads(stepweave("worker", "list", "-o", "json").out)) >= 2, "two workers listed")

    beside = start("orchestrator", "run", "--owner", "second", "--log-format", "console")
    beside.wait_for("ready")

    def owners() -> str:
        found = json.loads(stepweave("doctor", "-o", "json").out)
        return next(str(one["found"]) for one in found if one["what"] == "orchestrators")

    until(lambda: owners().startswith("2 alive (first, second), 3 shards"), "two owners of shards")
    assert orchestrator.end(signal.SIGTERM) == 0
    assert hello()["status"] == "complete"
    assert workers.end(signal.SIGINT) == 0
    workers.assert_gone()
    assert beside.end(signal.SIGINT) == 0

    # Nothing runs any more.
    before = run_alone(listed(database_url))
    assert len(before) == 3 and set(before.values()) == {"complete"}
    replayed = stepweave("replay", task["task_uuid"], "-o", "json")
    assert json.loads(replayed.out)["state"]["status"] == "complete"
    stranger = "00000000-0000-7000-8000-000000000000"
    run_alone(
        execute(
            database_url,
            f"UPDATE stepweave.tasks SET status = 'pending', version = 9 WHERE task_id = '{task['task_uuid']}'",
            "INSERT INTO stepweave.tasks SELECT (jsonb_populate_record(t, "
            f"jsonb_build_object('task_id', '{stranger}'))).* FROM stepweave.tasks t LIMIT 1",
        )
    )
    assert run_alone(listed(database_url)) == {**before, task["task_uuid"]: "pending", stranger: "complete"}
    rebuilt = stepweave("projections", "rebuild", "-o", "json")
    assert rebuilt.code == 0, rebuilt.err
    assert [(one["shard"], one["emptied"]) for one in json.loads(rebuilt.out)] == [
        (0, True),
        (1, True),
        (2, True),
    ]
    assert run_alone(listed(database_url)) == before
    assert stepweave("audit", "verify").code == 0

    # Somebody changes history.
    run_alone(
        execute(
            database_url,
            "ALTER TABLE stepweave.events DISABLE TRIGGER events_are_immutable",
            f"UPDATE stepweave.events SET actor = 'nobody' WHERE task_id = '{task['task_uuid']}' AND version = 2",
        )
    )
    broken = stepweave("audit", "verify")
    assert broken.code == 1 and "broken: the hash does not fit" in broken.out
    assert "the ledger is broken: shard" in broken.err and "position" in broken.err


def test_a_worker_on_its_own(stepweave: Type, start: Programs) -> None:
    assert stepweave("migrate").code == 0
    orchestrator = start("orchestrator", "run", "--shards", "1")
    orchestrator.wait_for('"event":"ready"')
    template = _TEMPLATE.replace("say_hello", "'handlers:direct'")
    Path("template.yaml").write_text(template)
    assert stepweave("template", "register", "template.yaml").code == 0
    worker = start("worker", "run", "handlers", "--resolve-imports", "--concurrency", "2")
    worker.wait_for("worker started")
    answer = stepweave("task", "create", "hello", "--wait", "-o", "json")
    assert answer.code == 0, answer.err
    results = stepweave("task", "get", json.loads(answer.out)["task_uuid"], "--results", "-o", "json")
    assert json.loads(results.out)["results"] == {"only": {"direct": True}}
    assert worker.end(signal.SIGTERM) == 0
    assert orchestrator.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("processes", "module", "code", "text"),
    [
        ("1", "nothing_here", 3, "nothing_here"),
        ("1", "empty", 1, "@step_handler"),
        ("2", "broken", 1, "broken.py:1"),
    ],
)
def test_workers_that_cannot_start(
    stepweave: Type, start: Programs, processes: str, module: str, code: int, text: str
) -> None:
    Path("broken.py").write_text("boom()\n")
    Path("empty.py").touch()
    worker = start("worker", "run", module, "--processes", processes)
    assert worker.popen.wait(PATIENCE_SECONDS) == code
    assert text in worker.err and "Traceback" not in worker.err
    worker.assert_gone()
