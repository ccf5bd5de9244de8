"""Every command that talks to a system, on one `stepweave dev` that the module shares."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.cli.typed import PATIENCE_SECONDS, Program, Type, typing_here, until

from stepweave_orchestrator.cli.addresses import DevAddresses, running_dev

#: A start that does not come while the test runs.
LATER = (datetime.now(UTC) + timedelta(days=30)).isoformat()
UNKNOWN = "01a1faa9-e91f-79c1-bc13-754c3e98489a"

#: A second handler, for steps that wait until a file is there.
_WAITING = """
import asyncio, pathlib
from stepweave import step_handler

@step_handler("wait_for_file")
async def wait_for_file(context):
    while not pathlib.Path(context.get_input("file")).exists():
        await asyncio.sleep(0.01)
    return {"seen": True}

def direct(context):
    return {"direct": True}
"""
_WAIT_TEMPLATE = (
    "namespace: waiting\nname: wait\nversion: 1.0.0\nsteps:\n  - {name: only, handler: wait_for_file}\n"
)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A running `stepweave dev` in the folder that `stepweave new` made."""
    folder = tmp_path_factory.mktemp("cli-dev") / "hello"
    made = Program(folder.parent, ["new", "hello"])
    assert made.popen.wait(PATIENCE_SECONDS) == 0, made.err
    (folder / "more.py").write_text(_WAITING)
    program = Program(folder, ["dev", "handlers", "./more.py", "--templates", "template.yaml"])
    try:
        program.wait_for("Ctrl-C stops everything")
        yield program
    finally:
        program.close()
    assert not program.left()


@pytest.fixture
def folder(dev: Program, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which is that of the running dev."""
    monkeypatch.chdir(dev.out_path.parent)
    return dev.out_path.parent


@pytest.fixture
def stepweave(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type a command in the folder."""
    return typing_here(capfd, monkeypatch)


@pytest.fixture
def addresses(folder: Path) -> DevAddresses:
    """Where the servers of the dev are."""
    found = running_dev()
    assert found is not None
    return found


def create(stepweave: Type, *words: str) -> dict[str, Any]:
    """Start a task; its answer."""
    answer = stepweave("task", "create", *words, "-o", "json")
    assert answer.code == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    return found


def in_database(dsn: str, statement: str) -> list[Any]:
    async def work() -> list[Any]:
        import asyncpg

        connection = await asyncpg.connect(dsn, timeout=60)
        try:
            found: list[Any] = await connection.fetch(statement)
            return found
        finally:
            await connection.close(timeout=60)

    return asyncio.run(work())


def test_it_says_where_things_are_and_what_to_type(dev: Program, addresses: DevAddresses) -> None:
    assert "template    default/hello:1.0.0, 4 steps" in dev.out
    assert "1 process with 5 handlers" in dev.out
    assert "stepweave task create default/hello --set name=… --watch" in dev.out
    for url in addresses:
        password = url.split("@")[0].rpartition(":")[2]
        assert password not in dev.out + dev.err


def test_env_gives_a_shell_the_addresses(stepweave: Type, addresses: DevAddresses, tmp_path: Path) -> None:
    assert stepweave("env").out.splitlines() == [
        f"export NATS_URL={shlex.quote(addresses.nats_url)}",
        f"export DATABASE_URL={shlex.quote(addresses.database_url)}",
    ]
    answer = stepweave("env", "--data-dir", str(tmp_path))
    assert answer.code == 3 and "no `stepweave dev` runs" in answer.err


def test_a_task_from_start_to_end(stepweave: Type) -> None:
    answer = stepweave("task", "create", "hello", "--set", "name=ada", "--wait")
    assert answer.code == 0, answer.err
    assert "4 of 4 done" in answer.out and "send" in answer.out
    answer = stepweave("task", "create", "default/hello:1.0.0", "-c", '{"name": "ada"}', "--watch")
    assert answer.code == 0
    types = [line.split()[1] for line in answer.out.splitlines()]
    assert types[0] == "task.created" and types[-1] == "task.completed" and "step.completed" in types


def test_results_and_formats(stepweave: Type) -> None:
    task = create(stepweave, "hello", "--set", "name=ada", "--wait", "--tag", "t1", "--priority", "5")
    task_id = task["task_uuid"]
    assert (task["status"], task["tags"], task["priority"]) == ("complete", ["t1"], 5)
    assert task["initiator"].startswith("cli")
    found = json.loads(stepweave("task", "get", task_id, "--results", "-o", "json").out)
    assert found["results"]["look_up_person"] == {"name": "Ada"}
    assert yaml.safe_load(stepweave("task", "get", task_id, "-o", "yaml").out)["status"] == "complete"
    answer = stepweave("task", "get", task_id, "--results")
    assert '{"name":"Ada"}' in answer.out


def test_a_retry_is_seen(stepweave: Type) -> None:
    answer = stepweave(
        "task", "create", "hello", "-s", "name=ada", "-s", "fail_first=true", "-W", "-o", "json"
    )
    assert answer.code == 0
    events = [json.loads(line) for line in answer.out.splitlines()]
    assert [event["version"] for event in events] == list(range(1, len(events) + 1))
    [retry] = [event for event in events if event["type"] == "step.retry_scheduled"]
    assert retry["data"]["error_code"] == "CLOSED"


def test_a_failed_task_has_exit_code_1(stepweave: Type) -> None:
    answer = stepweave("task", "create", "hello", "--set", 'name="  "', "--wait", "-o", "json")
    assert answer.code == 1
    task = json.loads(answer.out)
    assert task["status"] == "blocked_by_failures"
    assert "look_up_person: a name has letters" in answer.err and "stepweave events list" in answer.err
    assert stepweave("task", "watch", task["task_uuid"]).code == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["task", "create", "hello", "--set", "name="], 4, "/name"),
        (["task", "create", "hello", "--set", "name=7"], 4, "/name"),
        (["task", "create", "nothing"], 3, "template register"),
        (["task", "create", "hello:7.0.0"], 3, "has no version 7.0.0"),
        (["task", "create", "hello", "--context", "{"], 2, "not JSON"),
        (["task", "create", "hello", "--start-at", "soon"], 2, "--start-at"),
        (["task", "create", "hello", "--priority", "101"], 2, "priority"),
        (["task", "get", UNKNOWN], 3, UNKNOWN),
        (["task", "get", "nonsense"], 2, "task list"),
        (["task", "watch", UNKNOWN], 3, UNKNOWN),
        (["task", "watch", "a.>"], 2, "a.>"),
        (["task", "cancel", UNKNOWN], 3, UNKNOWN),
        (["template", "show", "nothing"], 3, "nothing"),
        (["template", "show", "a/b/c"], 2, "NAMESPACE/NAME"),
        (["template", "graph", "nothing"], 3, "nothing"),
        (["events", "list", UNKNOWN], 3, UNKNOWN),
        (["events", "tail", "--pattern", "step.nothing"], 2, "events catalog"),
        (["events", "tail", "--from", "soon"], 2, "--from"),
        (["events", "tail", "--all", "--namespace", "x"], 2, "--namespace"),
        (["replay", UNKNOWN], 3, UNKNOWN),
        (["replay", "nonsense"], 2, "nonsense"),
        (["replay", UNKNOWN, "--at-version", "1", "--at-time", "1s"], 2, "not both"),
        (["audit", "verify", "--shard", "99"], 3, "0 to 7"),
        (["projections", "rebuild", "--shard", "99"], 3, "0 to 7"),
    ],
)
def test_refusals(stepweave: Type, words: list[str], code: int, text: str) -> None:
    answer = stepweave(*words)
    assert answer.code == code, answer.err
    assert text in answer.err
    assert "Traceback" not in answer.err


def test_the_same_key_is_the_same_task(stepweave: Type) -> None:
    words = ["hello", "--set", "name=ada", "--key", "order-7", "--start-at", LATER]
    first = create(stepweave, *words)
    again = stepweave("task", "create", *words)
    assert again.code == 0 and first["task_uuid"] in again.out and "exists already" in again.err
    other = stepweave("task", "create", "hello", "--set", "name=eve", "--key", "order-7")
    assert other.code == 4 and "another --key" in other.err and first["task_uuid"] in other.err
    answer = stepweave("task", "cancel", first["task_uuid"], "--reason", "enough")
    assert answer.code == 0 and "cancelled" in answer.out
    history = stepweave("events", "list", first["task_uuid"])
    assert "task.cancelled" in history.out and "enough" in history.out


def test_a_finished_task_cannot_be_cancelled(stepweave: Type) -> None:
    task = create(stepweave, "hello", "--set", "name=ada", "--wait")
    answer = stepweave("task", "cancel", task["task_uuid"])
    assert answer.code == 4, answer.err


def test_lists(stepweave: Type) -> None:
    ids = [create(stepweave, "hello", "-s", "name=x", "--tag", "listed", "-w")["task_uuid"] for _ in range(3)]

    def listed() -> bool:
        found = json.loads(
            stepweave("task", "list", "--tag", "listed", "--status", "complete", "-o", "json").out
        )
        return [task["task_uuid"] for task in found["tasks"]] == ids[::-1]

    until(listed, "three listed tasks")
    page = stepweave("task", "list", "--tag", "listed", "--per-page", "2")
    assert page.code == 0 and "page 1 of 2, 3 tasks; --page 2 shows more" in page.err
    assert all(task_id in page.out for task_id in ids[:0:-1])
    nothing = stepweave("task", "list", "--tag", "no-such-tag")
    assert nothing == (0, "", nothing.err) and "no task fits" in nothing.err


def test_templates(stepweave: Type, folder: Path) -> None:
    listed = stepweave("template", "list", "-o", "json")
    assert [one["name"] for one in json.loads(listed.out) if one["namespace"] == "default"] == ["hello"]
    shown = stepweave("template", "show", "default/hello")
    assert "hello_send" in shown.out and "exponential" in shown.out and "10 s" in shown.out
    assert yaml.safe_load(stepweave("template", "show", "hello", "-o", "yaml").out)["version"] == "1.0.0"
    assert "write_greeting" in stepweave("template", "graph", "default/hello").out
    again = stepweave("template", "register", "template.yaml")
    assert again.code == 0 and "unchanged" in again.out
    changed = folder / "changed.yaml"
    changed.write_text(
        (folder / "template.yaml").read_text().replace("timeout_seconds: 10", "timeout_seconds: 11")
    )
    refused = stepweave("template", "register", "changed.yaml")
    assert refused.code == 4 and "raise the version" in refused.err
    changed.write_text("namespace: default\nname: hello\nversion: 2.0.0\nsteps:\n  - {name: a}\n")
    broken = stepweave("template", "register", "changed.yaml")
    assert broken.code == 4 and "changed.yaml:5: EMPTY_CALLABLE" in broken.err


def test_a_new_namespace_gets_workers_and_a_step_is_watched(
    stepweave: Type, dev: Program, folder: Path
) -> None:
    (folder / "wait.yaml").write_text(_WAIT_TEMPLATE)
    assert stepweave("template", "register", "wait.yaml").code == 0
    dev.wait_for("the workers now serve the namespaces default, waiting")
    gate = folder / "gate"
    task = create(stepweave, "waiting/wait", "--set", f"file={gate}")
    watching = Program(folder, ["task", "watch", task["task_uuid"]])
    watching.wait_for("step.started")
    assert watching.popen.poll() is None
    gate.touch()
    assert watching.popen.wait(PATIENCE_SECONDS) == 0
    assert "task.completed" in watching.out


def test_ctrl_c_ends_a_watch(stepweave: Type, folder: Path) -> None:
    task = create(stepweave, "hello", "--set", "name=x", "--start-at", LATER)
    watching = Program(folder, ["task", "watch", task["task_uuid"]])
    watching.wait_for("task.created")
    assert watching.end() == 130
    assert "Traceback" not in watching.err


def test_tail(stepweave: Type, folder: Path) -> None:
    tail = Program(folder, ["events", "tail", "--pattern", "task.comp*", "--limit", "1", "-o", "json"])
    everything = Program(folder, ["events", "tail", "--all", "--from", "start", "--pattern", "step.enqueued"])
    everything.wait_for("step.enqueued")
    assert everything.end() == 130
    done = threading_create(stepweave, tail)
    assert tail.popen.wait(PATIENCE_SECONDS) == 0
    [line] = tail.out.splitlines()
    assert json.loads(line)["type"] == "task.completed"
    assert json.loads(line)["task_id"] in done
    past = stepweave(
        "events",
        "tail",
        "--from",
        "1h",
        "-p",
        "task.completed",
        "-n",
        "default",
        "--limit",
        "1",
        "-o",
        "yaml",
    )
    assert past.code == 0 and next(yaml.safe_load_all(past.out))["type"] == "task.completed"


def threading_create(stepweave: Type, tail: Program) -> list[str]:
    """Run tasks until the tail, which starts with what happens from now on, has seen one."""
    ids: list[str] = []

    def seen() -> bool:
        ids.append(create(stepweave, "hello", "--set", "name=x", "--wait")["task_uuid"])
        return bool(tail.out)

    until(seen, "an event on the tail")
    return ids


def test_replay(stepweave: Type) -> None:
    task = create(stepweave, "hello", "--set", "name=ada", "--wait")
    task_id = task["task_uuid"]
    now = json.loads(stepweave("replay", task_id, "-o", "json").out)
    assert {**now["state"], "replayed": False} == task
    then = json.loads(stepweave("replay", task_id, "--at-version", "3", "-o", "json").out)
    assert then["at_version"] == 3 and then["events"] == now["events"][:3]
    states = {step["name"]: step["current_state"] for step in then["state"]["steps"]}
    assert states["look_up_person"] == "complete" and states["send"] == "pending"
    assert "task.completed" in stepweave("replay", task_id).out
    for beyond in (len(now["events"]) + 1, 2**40):
        refused = stepweave("replay", task_id, "--at-version", str(beyond))
        assert (refused.code, refused.out) == (3, "")
        assert f"the task has {len(now['events'])} events" in refused.err
    # No advice while what one append did is seen in part: the event that makes a step ready follows.
    for event in then["events"], now["events"][:-1]:
        version = str(event[-1]["version"])
        part = stepweave("replay", task_id, "--at-version", version, "-o", "json")
        assert json.loads(part.out)["state"]["recommended_action"] is None
        assert not re.search(
            "^next ", stepweave("replay", task_id, "--at-version", version).out, re.MULTILINE
        )
    ready = stepweave("replay", task_id, "--at-version", "2", "-o", "json")
    assert json.loads(ready.out)["state"]["recommended_action"] is not None
    assert stepweave("replay", task_id, "--at-time", "2000-01-01T00:00:00Z").code == 3
    at_creation = stepweave("replay", task_id, "--at-time", task["created_at"], "-o", "json")
    assert json.loads(at_creation.out)["state"]["status"] == "steps_in_process"


def test_audit_and_migrate(stepweave: Type) -> None:
    answer = stepweave("audit", "verify", "-o", "json")
    assert answer.code == 0 and "whole" in answer.err
    shards = json.loads(answer.out)
    assert [one["shard"] for one in shards] == list(range(8))
    assert all(one["fault"] is None and one["events"] >= 1 for one in shards)
    assert len(stepweave("audit", "verify", "--shard", "3").out.splitlines()) == 2
    assert stepweave("migrate", "--check").code == 0
    assert stepweave("migrate").err == "nothing to apply\n"


def test_projections_are_repaired_beside_a_running_orchestrator(
    stepweave: Type, addresses: DevAddresses
) -> None:
    task = create(stepweave, "hello", "--set", "name=x", "--tag", "repaired", "--wait")

    def count() -> int:
        found = json.loads(stepweave("task", "list", "--tag", "repaired", "-o", "json").out)
        return len(found["tasks"])

    until(lambda: count() == 1, "the row of the task")
    in_database(addresses.database_url, f"DELETE FROM stepweave.tasks WHERE task_id = '{task['task_uuid']}'")
    assert count() == 0
    answer = stepweave("projections", "rebuild")
    assert answer.code == 0 and answer.out.count("repaired in place") == 8
    assert count() == 1


def test_workers_and_doctor(stepweave: Type) -> None:
    [worker] = json.loads(stepweave("worker", "list", "-o", "json").out)
    assert "hello_send" in worker["handlers"] and worker["running"] == 0
    assert worker["worker_id"] in stepweave("worker", "list").out
    [load] = json.loads(stepweave("orchestrator", "status", "-o", "json").out)
    assert load["state"] == "open" and load["creates_admitted"] > 0 and load["creates_refused"] == 0
    assert "commands_waiting" in stepweave("orchestrator", "status").out
    answer = stepweave("doctor")
    assert answer.code == 0, answer.out
    lines = {line.split()[1]: line.split()[0] for line in answer.out.splitlines()[1:]}
    assert lines.pop("rights") == "warn"  # the embedded role owns the tables
    assert lines.pop("disk") in ("ok", "warn")
    assert set(lines.values()) == {"ok"}, answer.out
    assert {
        "Python",
        "NATS",
        "JetStream",
        "streams",
        "API",
        "load",
        "workers",
        "Postgres",
        "clock",
        "migrations",
        "orchestrators",
    } <= lines.keys()


def test_a_second_dev_on_the_same_folder_is_refused(folder: Path) -> None:
    second = Program(folder, ["dev"])
    assert second.popen.wait(PATIENCE_SECONDS) == 5
    assert "is in use by process" in second.err and "Traceback" not in second.err


def test_a_killed_worker_comes_back(stepweave: Type, dev: Program) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    # Whoever is busy may be late to say that it is there.
    while not (workers := json.loads(stepweave("worker", "list", "-o", "json").out)):
        assert time.monotonic() < deadline, "no worker says that it is there"
    [worker] = workers
    [process] = [one for one in dev.family() if one.pid == worker["pid"]]
    process.kill()
    dev.wait_for("was ended by SIGKILL; starting it again")
    assert create(stepweave, "hello", "--set", "name=x", "--wait")["status"] == "complete"
