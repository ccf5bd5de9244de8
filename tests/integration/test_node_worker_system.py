"""One task, two languages, on the whole system: `compose` runs in Python, `render` in the Node worker."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, Worker
from stepweave.responses import TaskResponse
from stepweave.testing import eventually
from stepweave_orchestrator.cli.modules import load_modules

from .conftest import WAIT_SECONDS, System, json_of, running_system
from .node_worker_process import EXAMPLE, NodeWorker, example_folder, installed_packages

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "polyglot"
#: The first try of `render` says so and holds, until it is cancelled or the process dies.
HOLDING_HANDLERS = """
import { setTimeout as sleep } from "node:timers/promises";

export async function polyglot_render(step) {
  if (step.attempt > 1) return { attempt: step.attempt, step_uuid: step.step_uuid };
  console.error(JSON.stringify({ what: "holding", step_uuid: step.step_uuid }));
  try {
    await sleep(2 ** 30, null, { signal: step.signal });
  } finally {
    console.error(JSON.stringify({ what: "let go" }));
  }
}
"""


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The example as a user has it after `npm install`, and handlers that hold."""
    made = example_folder(tmp_path / "node-worker", installed_packages(request.config.cache))
    (made / "holding.mjs").write_text(HOLDING_HANDLERS)
    return made


@asynccontextmanager
async def node_worker(system: System, folder: Path, *arguments: str) -> AsyncIterator[NodeWorker]:
    """A Node worker that takes steps; it is killed afterwards if it still runs, with nothing under way."""
    worker = await NodeWorker.start(folder, system.nats_url, "--pull-seconds", "1", *arguments)
    try:
        await worker.hear("ready")
        yield worker
        if worker.process.returncode is None:
            # A dispatch without its acknowledgement would come again, in the middle of another test.
            await all_acknowledged(system)
    finally:
        await worker.kill()


@asynccontextmanager
async def python_half(system: System, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """The template, registered, and the Python worker of the example."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    await system.client.register_template(EXAMPLE / "greeting.yaml")
    registry = Registry()
    assert registry.discover(*load_modules([str(EXAMPLE / "handlers.py")])) == ["polyglot_compose"]
    async with Worker(system.nats_url, namespaces=[NAMESPACE], handlers=registry) as worker:
        yield worker


async def greet(system: System, **context: Any) -> TaskResponse:
    return await system.client.create_task(
        "greeting", namespace=NAMESPACE, context={"name": "Ada", **context}
    )


async def test_each_step_runs_in_its_language(
    system: System, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with python_half(system, monkeypatch) as python, node_worker(system, folder) as node:
        created = await greet(system, language="fr", format="html")
        task = await system.wait(created.task_uuid)
        results = await system.client.get_results(task.task_uuid)
        assert await node.stop() == 0

    assert results["compose"] == {"line": "Bonjour, Ada !", "language": "fr"}
    page = results["render"]
    assert (page["page"], page["format"], page["language"]) == ("<p>Bonjour, Ada !</p>", "html", "fr")
    assert page["rendered_by"].startswith("node ")
    assert task.step("compose").worker_id == python.worker_id
    assert task.step("render").worker_id == (await node.hear("ready"))["worker_id"]


async def test_a_failure_in_node_is_a_failure_of_the_step(
    system: System, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with python_half(system, monkeypatch), node_worker(system, folder):
        created = await greet(system, format="pdf")
        task = await system.wait(created.task_uuid, "blocked_by_failures")
    render = task.step("render")
    assert (render.current_state, render.attempts) == ("error", 1)
    assert (render.error_type, render.error_code) == ("validation_error", "UNKNOWN_FORMAT")
    assert render.error_message == "the format is one of text, html, markdown, not pdf"


async def test_its_steps_wait_until_a_node_worker_is_there(
    system: System, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with python_half(system, monkeypatch):
        created = await greet(system)

        async def composed() -> bool:
            task = await system.client.get_task(created.task_uuid)
            return task.step("compose").current_state == "complete"

        await eventually(composed, timeout_seconds=WAIT_SECONDS)
        waiting = await system.client.get_task(created.task_uuid)
        assert waiting.step("render").current_state == "enqueued"
        async with node_worker(system, folder):
            await system.wait(created.task_uuid)
    results = await system.client.get_results(created.task_uuid)
    assert results["render"]["page"] == "Hello, Ada!"


async def test_cancelling_the_task_reaches_the_handler_in_node(
    system: System, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        python_half(system, monkeypatch),
        node_worker(system, folder, "--handlers", "holding.mjs") as node,
    ):
        created = await greet(system)
        await node.hear("holding")
        cancelled = await system.client.cancel_task(created.task_uuid, reason="no longer wanted")
        assert cancelled.status == "cancelled"
        await node.hear("let go")
        assert await node.stop() == 0
    await all_acknowledged(system)


async def all_acknowledged(system: System) -> None:
    async def empty() -> bool:
        info = await system.connection.client.jetstream().stream_info(f"DISP_{NAMESPACE}")
        return info.state.messages == 0

    await eventually(empty, timeout_seconds=WAIT_SECONDS, what="an empty dispatch stream")


async def test_a_node_worker_that_is_killed_loses_its_try_and_no_more(
    database_url: str, nats_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--handlers", "holding.mjs", "--heartbeat-seconds", "0.3")
    async with (
        running_system(database_url, nats_url, dispatch_lease_seconds=1.0) as system,
        python_half(system, monkeypatch),
        node_worker(system, folder, *options) as first,
    ):
        created = await greet(system)
        held = await first.hear("holding")
        await first.kill()
        async with node_worker(system, folder, *options):
            task = await system.wait(created.task_uuid)
        results = await system.client.get_results(task.task_uuid)
        history = [json_of(event.data) for event in await system.history(task.task_uuid)]

    assert results["render"] == {"attempt": 2, "step_uuid": held["step_uuid"]}
    assert task.step("render").attempts == 2
    assert task.step("compose").attempts == 1
    [lost] = [event for event in history if event["type"] == "step.retry_scheduled"]
    assert (lost["step_name"], lost["error_type"], lost["attempt"]) == ("render", "worker_lost", 1)
