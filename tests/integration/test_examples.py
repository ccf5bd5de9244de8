"""The examples as shipped, on the whole system: every demo run, and every line of the READMEs' tables."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, ValidationFailed, Worker
from stepweave.responses import TaskResponse
from stepweave_orchestrator.cli.demo_examples import find_examples
from stepweave_orchestrator.cli.modules import load_modules
from stepweave_orchestrator.cli.task_input import context_of
from stepweave_schemas.template import TaskTemplate, load_template_file

from .conftest import WAIT_SECONDS, System, running_system

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Examples whose README has a table of changes to `context.json`.
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/context.json"))
_TABLE_ROW = re.compile(r"^\| `(--set .+?)` \| (.+) \|$", re.MULTILINE)
_FAILURE = re.compile(r"`(\w+)` fails with `(\w+)` after (\d+) tr(?:y|ies)\b")
_REFUSAL = re.compile(r"refused with `(\w+)`")
_RETRIED = re.compile(r"`(\w+)` takes (\d+) tries\b")


@pytest.fixture(autouse=True)
def _search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading handlers by path puts folders on the search path; take them off again."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@asynccontextmanager
async def served(system: System, folder: Path) -> AsyncIterator[TaskTemplate]:
    """An example's template, registered, and a worker with its handlers, loaded as the command line does."""
    registered = await system.client.register_template(folder / "template.yaml")
    template = load_template_file(folder / "template.yaml").template
    assert registered.content == template.canonical()
    registry = Registry()
    registry.discover(*load_modules([str(folder / "handlers.py")]))
    assert {step.handler.callable for step in template.steps} <= set(registry.names)
    async with Worker(system.nats_url, namespaces=[template.namespace], handlers=registry):
        yield template


async def run(system: System, template: TaskTemplate, context: Mapping[str, Any]) -> TaskResponse:
    """A task of the template, when it has ended or is blocked."""
    task = await system.client.create_task(
        template.name, namespace=template.namespace, version=template.version, context=context
    )
    return await system.client.wait_for_task(task.task_uuid, timeout_seconds=WAIT_SECONDS)


def failed_steps(task: TaskResponse) -> set[str]:
    return {step.name for step in task.steps if step.current_state == "error"}


async def test_every_example_of_the_demonstration_is_here() -> None:
    found = {example.folder.name: len(example.runs) for example in find_examples(EXAMPLES)}
    assert set(found) == {"ecommerce_checkout", "order_fulfilment", "user_registration"}
    assert min(found.values()) >= 3


@pytest.mark.parametrize("example", find_examples(EXAMPLES), ids=lambda example: example.folder.name)
async def test_every_demo_run_ends_as_it_says(system: System, example: Any) -> None:
    async with served(system, example.folder) as template:
        tasks = await asyncio.gather(*(run(system, template, one.input.context) for one in example.runs))
    for one, task in zip(example.runs, tasks, strict=True):
        wanted = {one.input.expect_failed_step} - {None}
        assert (one.title, task.status) == (one.title, one.input.expect)
        assert (one.title, failed_steps(task)) == (one.title, wanted)


@pytest.mark.parametrize("name", FOLDERS)
async def test_every_change_in_the_readme_has_the_outcome_that_it_says(system: System, name: str) -> None:
    folder = EXAMPLES / name
    start = f"@{folder / 'context.json'}"
    rows = _TABLE_ROW.findall((folder / "README.md").read_text())
    assert len(rows) >= 3

    async with served(system, folder) as template:

        async def check(options: str, outcome: str) -> None:
            words = shlex.split(options)
            assert words[::2] == ["--set"] * (len(words) // 2), options
            context = context_of(start, words[1::2])
            if refusal := _REFUSAL.match(outcome):
                with pytest.raises(ValidationFailed) as refused:
                    await run(system, template, context)
                assert refused.value.code == refusal[1]
                return
            task = await run(system, template, context)
            step: str | None = None
            if failure := _FAILURE.match(outcome):
                step, code, tries = failure.groups()
                assert task.status == "blocked_by_failures", options
                assert (task.step(step).error_code, task.step(step).attempts) == (code, int(tries)), options
            else:
                assert outcome.startswith("complete;"), f"nothing in this line can be checked: {outcome}"
                assert task.status == "complete", options
            assert failed_steps(task) == ({step} if step else set()), options
            expected = {name: int(tries) for name, tries in _RETRIED.findall(outcome)}
            retried = {one.name: one.attempts for one in task.steps if one.attempts > 1 and one.name != step}
            assert retried == expected, options

        await asyncio.gather(*(check(*row) for row in rows))
        unchanged = await run(system, template, context_of(start, []))
    assert unchanged.status == "complete"
    assert {step.attempts for step in unchanged.steps} == {1}


async def test_the_other_branch_goes_on_when_one_fails(system: System) -> None:
    folder = EXAMPLES / "order_fulfilment"
    context = context_of(f"@{folder / 'context.json'}", ['items=[{"sku": "desk", "quantity": 1}]'])
    async with served(system, folder) as template:
        task = await run(system, template, context)
    states = {step.name: step.current_state for step in task.steps}
    assert states["check_inventory"] == "error"
    assert states["process_payment"] == "complete"
    assert {states[name] for name in ("reserve_inventory", "ship_order", "send_confirmation")} == {"pending"}


async def test_a_retried_payment_is_the_same_payment(system: System) -> None:
    """The first try failed after the gateway took the money; the key is the same, so is the payment."""
    folder = EXAMPLES / "ecommerce_checkout"
    context = context_of(f"@{folder / 'context.json'}", ["payment_token=tok_gateway_timeout"])
    async with served(system, folder) as template:
        task = await run(system, template, context)
        results = await system.client.get_results(task.task_uuid)
    types = await system.types(task.task_uuid)
    assert types.count("step.retry_scheduled") == 1
    assert results["process_payment"]["replayed"] is True
    assert results["create_order"]["payment_id"] == results["process_payment"]["payment_id"]
    assert results["validate_cart"]["total_cents"] == results["process_payment"]["amount_cents"]


async def test_an_order_that_does_not_fit_its_schema_leaves_no_trace(system: System) -> None:
    async with served(system, EXAMPLES / "order_fulfilment") as template, system.unharmed():
        with pytest.raises(ValidationFailed) as refused:
            await run(system, template, {"order_id": "ORD-1", "ship_to": {"country": "Germany"}})
    assert "/ship_to/country" in str(refused.value.details)


class Script:
    """The subscriber as its README starts it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.output: list[str] = []

    @classmethod
    async def start(cls, nats_url: str) -> Script:
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "examples/order_tracking_subscriber/subscriber.py",
                cwd=EXAMPLES.parent,
                env={**os.environ, "NATS_URL": nats_url},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
        )

    async def says(self, count: int) -> list[str]:
        """Its first `count` reactions, sorted."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while len(self.reactions) < count:
                    line = (await self._process.stdout.readline()).decode()
                    assert line, f"the subscriber ended: {self.output}"
                    self.output.append(line)
        except TimeoutError:
            raise AssertionError(f"it said only: {''.join(self.output)}") from None
        return sorted(self.reactions)

    @property
    def reactions(self) -> list[str]:
        """What it said that is no log."""
        return [line.rstrip() for line in self.output if line.startswith(("analytics: ", "slack: "))]

    async def stop(self) -> None:
        """End it as Ctrl-C does; it must end well and say nothing more."""
        self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(WAIT_SECONDS):
            rest, _ = await self._process.communicate()
        assert self._process.returncode == 0
        assert "analytics: " not in rest.decode() and "slack: " not in rest.decode()

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


async def test_the_order_tracking_subscriber_goes_on_where_it_stopped(
    database_url: str, nats_url: str
) -> None:
    folder = EXAMPLES / "order_tracking_subscriber"
    start = f"@{folder / 'context.json'}"
    async with (
        running_system(database_url, nats_url) as system,
        served(system, folder) as template,
        AsyncExitStack() as scripts,
    ):

        async def order(number: int, token: str) -> None:
            await run(system, template, context_of(start, [f"order_id={number}", f"payment_token={token}"]))

        async def script() -> Script:
            started = await Script.start(nats_url)
            scripts.push_async_callback(started.kill)
            return started

        await order(1, "tok_visa")
        first = await script()
        await order(2, "tok_declined")
        assert await first.says(2) == [
            'analytics: order_completed {"order_id": 1, "total_amount": 59.9, "payment_token": "tok_visa"}',
            "slack: Payment failure for order 2: Card declined",
        ]
        await first.stop()
        await order(3, "tok_declined")
        second = await script()
        assert await second.says(1) == ["slack: Payment failure for order 3: Card declined"]
        await second.stop()
