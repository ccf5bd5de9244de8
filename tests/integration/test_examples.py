"""The examples as shipped, on the whole system: every demo run, and every line of the READMEs' tables."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, ValidationFailed, Worker
from stepweave.responses import TaskResponse
from stepweave.testing import eventually
from stepweave_orchestrator.cli.demo_examples import (
    Run,
    SignalToSend,
    find_examples,
    load_templates,
    named_template,
)
from stepweave_orchestrator.cli.demo_signals import SignalSender
from stepweave_orchestrator.cli.errors import CommandError
from stepweave_orchestrator.cli.modules import load_modules
from stepweave_orchestrator.cli.task_input import context_of
from stepweave_schemas.template import CHILD_TASK_HANDLER, SIGNAL_HANDLER, TaskTemplate

from .conftest import WAIT_SECONDS, System, json_of, running_system

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Examples whose README has a table of changes to `context.json`.
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/context.json"))
_TABLE_ROW = re.compile(r"^\| `(--set .+?)` \| (.+) \|$", re.MULTILINE)
_FAILURE = re.compile(r"`(\w+)` fails with `(\w+)` after (\d+) tr(?:y|ies)\b")
_REFUSAL = re.compile(r"refused with `(\w+)`")
_RETRIED = re.compile(r"`(\w+)` takes (\d+) tries\b")
_UNDONE = re.compile(r"; undone: (complete|partial)\b")


@pytest.fixture(autouse=True)
def _search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading handlers by path puts folders on the search path; take them off again."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@asynccontextmanager
async def served(system: System, folder: Path) -> AsyncIterator[dict[Path, TaskTemplate]]:
    """An example's templates, registered, and a worker with its handlers, loaded as the command line does."""
    templates = load_templates(folder)
    for path, template in templates.items():
        registered = await system.client.register_template(path)
        assert registered.content == template.canonical()
    registry = Registry()
    registry.discover(*load_modules([str(folder / "handlers.py")]))
    needed = {step.handler.callable for template in templates.values() for step in template.steps}
    assert needed <= {*registry.names, SIGNAL_HANDLER, CHILD_TASK_HANDLER}
    namespaces = sorted({template.namespace for template in templates.values()})
    async with Worker(system.nats_url, namespaces=namespaces, handlers=registry):
        yield templates


def only(templates: Mapping[Path, TaskTemplate]) -> TaskTemplate:
    """The template of an example that has one."""
    [template] = templates.values()
    return template


async def run(
    system: System, template: TaskTemplate, context: Mapping[str, Any], signals: Iterable[SignalToSend] = ()
) -> TaskResponse:
    """A task of the template, when it has ended or is blocked; its signals are sent as the demonstration does."""
    client = system.client
    task = await client.create_task(
        template.name, namespace=template.namespace, version=template.version, context=context
    )
    sender = SignalSender(client, task.task_uuid, signals)
    await sender.begin()
    async with asyncio.timeout(WAIT_SECONDS):
        async for envelope in client.watch_task(task.task_uuid, until_blocked=True):
            await sender.happened(envelope)
    assert sender.fault == ""
    return await client.get_task(task.task_uuid)


def failed_steps(task: TaskResponse) -> set[str]:
    return {step.name for step in task.steps if step.current_state == "error"}


async def test_every_example_of_the_demonstration_is_here() -> None:
    found = {example.folder.name: len(example.runs) for example in find_examples(EXAMPLES)}
    assert set(found) == {path.parent.name for path in EXAMPLES.glob("*/inputs")}
    assert min(found.values()) >= 3


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "template: say which, the example has 3 templates"),
        (
            {"template": "payments/refund"},
            "no template 'payments/refund', it has customer_success/process_refund:1",
        ),
        ({"template": "payments/process_refund:9.0.0"}, "no template 'payments/process_refund:9.0.0'"),
        ({"template": "payments/process_refund", "expect_failed_step": "capture"}, "has no step 'capture'"),
        (
            {"template": "payments/process_refund", "signals": [{"name": "stop"}]},
            "no step of .* waits for 'stop'",
        ),
        (
            {"template": "payments/process_refund", "expects": "error"},
            "unknown field `expects`; an input has",
        ),
    ],
)
async def test_a_wrong_input_is_told_with_its_file(
    tmp_path: Path, fields: dict[str, Any], complaint: str
) -> None:
    folder = tmp_path / "refunds"
    shutil.copytree(EXAMPLES / "team_refunds" / "templates", folder / "templates")
    (folder / "handlers.py").touch()
    (folder / "inputs").mkdir()
    (folder / "inputs" / "wrong.json").write_text(json.dumps({"context": {}} | fields))
    with pytest.raises(CommandError, match=f"wrong.json: .*{complaint}"):
        find_examples(tmp_path)


@pytest.mark.parametrize("example", find_examples(EXAMPLES), ids=lambda example: example.folder.name)
async def test_every_demo_run_ends_as_it_says(system: System, example: Any) -> None:
    runs: tuple[Run, ...] = example.runs
    async with served(system, example.folder):
        tasks = await asyncio.gather(
            *(run(system, one.template, one.input.context, one.input.signals) for one in runs)
        )
    for one, task in zip(runs, tasks, strict=True):
        wanted = {one.input.expect_failed_step} - {None}
        # The batches that failed are of no concern unless the input names one.
        told = wanted | {step.name for step in one.template.steps}
        assert (one.title, task.status) == (one.title, one.input.expect)
        assert (one.title, failed_steps(task) & told) == (one.title, wanted)
        assert (one.title, task.compensation_status) == (one.title, one.input.expect_compensation)


@pytest.mark.parametrize("name", FOLDERS)
async def test_every_change_in_the_readme_has_the_outcome_that_it_says(system: System, name: str) -> None:
    folder = EXAMPLES / name
    start = f"@{folder / 'context.json'}"
    readme = (folder / "README.md").read_text()
    rows = _TABLE_ROW.findall(readme)
    assert len(rows) >= 3
    # Of the commands above the table, the last one with `context.json` is the one that the options are added to.
    above = readme[: readme.index(f"| `{rows[0][0]}`")]
    reference = re.findall(rf"stepweave task create (\S+) --context @examples/{name}/context.json", above)[-1]

    async with served(system, folder) as templates:
        template = named_template(templates, reference)

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
            undone = _UNDONE.search(outcome)
            assert task.compensation_status == (undone and undone[1]), options
            if failure := _FAILURE.match(outcome):
                step, code, tries = failure.groups()
                assert task.status == ("error" if undone else "blocked_by_failures"), options
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
    async with served(system, folder) as templates:
        task = await run(system, only(templates), context)
    states = {step.name: step.current_state for step in task.steps}
    assert states["check_inventory"] == "error"
    assert states["process_payment"] == "complete"
    assert {states[name] for name in ("reserve_inventory", "ship_order", "send_confirmation")} == {"pending"}


async def test_a_retried_payment_is_the_same_payment(system: System) -> None:
    """The first try failed after the gateway took the money; the key is the same, so is the payment."""
    folder = EXAMPLES / "ecommerce_checkout"
    context = context_of(f"@{folder / 'context.json'}", ["payment_token=tok_gateway_timeout"])
    async with served(system, folder) as templates:
        task = await run(system, only(templates), context)
        results = await system.client.get_results(task.task_uuid)
    types = await system.types(task.task_uuid)
    assert types.count("step.retry_scheduled") == 1
    assert results["process_payment"]["replayed"] is True
    assert results["create_order"]["payment_id"] == results["process_payment"]["payment_id"]
    assert results["validate_cart"]["total_cents"] == results["process_payment"]["amount_cents"]


async def test_an_order_that_does_not_fit_its_schema_leaves_no_trace(system: System) -> None:
    async with served(system, EXAMPLES / "order_fulfilment") as templates, system.unharmed():
        with pytest.raises(ValidationFailed) as refused:
            await run(system, only(templates), {"order_id": "ORD-1", "ship_to": {"country": "Germany"}})
    assert "/ship_to/country" in str(refused.value.details)


async def test_a_registration_is_undone_in_reverse_order(system: System) -> None:
    folder = EXAMPLES / "registration_saga"
    context = context_of(f"@{folder / 'context.json'}", ["email=ada@nowhere.example"])
    async with served(system, folder) as templates:
        task = await run(system, only(templates), context)
    undone = [
        json_of(envelope.data)["compensates"]
        for envelope in await system.client.get_events(task.task_uuid)
        if envelope.type == "compensation.completed"
    ]
    assert set(undone[:2]) == {"setup_notification_preferences", "track_user_signup"}
    assert undone[2:] == ["create_user_profile", "create_auth_account"]
    assert {step.current_state for step in task.steps} == {"compensated", "error"}


async def test_a_capture_whose_answer_was_lost_is_found(system: System) -> None:
    folder = EXAMPLES / "payment_pipeline"
    context = context_of(f"@{folder / 'context.json'}", ["payment_method.token=tok_capture_lost"])
    goes_on = SignalToSend(name="cancel_payment", payload={"cancelled": False}, early=True)
    async with served(system, folder) as templates:
        task = await run(system, only(templates), context, [goes_on])
        results = await system.client.get_results(task.task_uuid)
    assert task.step("capture_payment").attempts == 2
    assert results["capture_payment"]["already_captured"] is True


async def test_a_request_over_nats_approves_an_expense(system: System) -> None:
    """As the README types it; what does not fit is refused, and the step waits on."""
    folder = EXAMPLES / "expense_approval"
    client = system.client
    context = context_of(f"@{folder / 'context.json'}", ["amount_cents=48000"])
    async with served(system, folder) as templates:
        template = named_template(templates, "finance/expense_approval")
        created = await client.create_task(template.name, namespace=template.namespace, context=context)

        async def waits() -> bool:
            task = await client.get_task(created.task_uuid)
            return "manager_decision" in {step.waiting_for_signal for step in task.steps}

        await eventually(waits, what="the step that waits for the manager")
        request = {"task_id": created.task_uuid, "signal": "manager_decision", "sent_by": "mia"}
        refusal = await system.refusal("task.signal", request | {"payload": {"approved": "yes"}})
        assert refusal.code == "VALIDATION_FAILED"
        reply = await system.request("task.signal", request | {"payload": {"approved": True}})
        assert reply["taken_by"] == "manager_decision"
        task = await client.wait_for_task(created.task_uuid, timeout_seconds=WAIT_SECONDS)
        results = await client.get_results(created.task_uuid)
    assert task.status == "complete"
    assert results["settle_expense"]["outcome"] == "approved"
    assert "notify_rejection" not in {step.name for step in task.steps}


async def test_cancelling_a_refund_cancels_the_task_of_the_other_team(system: System) -> None:
    folder = EXAMPLES / "team_refunds"
    client = system.client
    context = context_of(f"@{folder / 'context.json'}", ["payment_id=pay_stuck"])
    async with served(system, folder):
        created = await client.create_task(
            "process_refund", namespace="customer_success", context=context, correlation_id="complaint-7"
        )

        async def retries() -> str | None:
            step = (await client.get_task(created.task_uuid)).step("execute_refund")
            if step.child_task_uuid is None:
                return None
            types = await system.types(step.child_task_uuid)
            return step.child_task_uuid if "step.retry_scheduled" in types else None

        child_id: str = await eventually(retries, what="a retry in the task of the payments team")
        await client.cancel_task(created.task_uuid, reason="the customer keeps it")
        child = await client.wait_for_task(child_id, timeout_seconds=WAIT_SECONDS)
    assert (created.version, child.namespace, child.status) == ("2.0.0", "payments", "cancelled")
    assert child.correlation_id == created.correlation_id == "complaint-7"
    assert child.parent_task_uuid == created.task_uuid


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
        served(system, folder) as templates,
        AsyncExitStack() as scripts,
    ):

        async def order(number: int, token: str) -> None:
            await run(
                system, only(templates), context_of(start, [f"order_id={number}", f"payment_token={token}"])
            )

        async def script() -> Script:
            started = await Script.start(nats_url)
            scripts.push_async_callback(started.kill)
            return started

        await order(1, "tok_visa")
        first = await script()
        await order(2, "tok_declined")
        assert await first.says(3) == [
            'analytics: order_completed {"order_id": 1, "total_amount": 59.9, "payment_token": "tok_visa"}',
            'analytics: payment_charged {"order_id": 1, "amount": 59.9}',
            "slack: Payment failure for order 2: Card declined",
        ]
        await first.stop()
        await order(3, "tok_declined")
        second = await script()
        assert await second.says(1) == ["slack: Payment failure for order 3: Card declined"]
        await second.stop()
