"""`dev` and `demo` as processes: signals, crashes, neighbours, and that nothing stays behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import _copy_with_owners
from tests.unit.cli.typed import PATIENCE_SECONDS, Program, clean_environment, until

from stepweave_orchestrator.cli.dev import GRACE_SECONDS

READY = "Ctrl-C stops everything"

_TEMPLATE = """\
namespace: shop
name: pay
version: 1.0.0
steps:
  - {name: charge, handler: shop_charge, retry: {max_attempts: 2, backoff_base_ms: 10}}
  - {name: ship, handler: shop_ship, dependencies: [charge]}
"""
_HANDLERS = """\
import time
from stepweave import PermanentError, RetryableError, step_handler

@step_handler("shop_charge")
def charge(context):
    card = context.get_input("card")
    if card == "declined":
        raise PermanentError("the card was declined")
    if card == "slow" and not context.is_retry():
        raise RetryableError("the gateway timed out")
    return {"card": card}

@step_handler("shop_ship")
async def ship(context):
    if context.get_input_or("hang", False):
        import asyncio
        await asyncio.sleep(3600)
    return {}

@step_handler("shop_block")
def block(context):
    time.sleep(3600)
"""

Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start programs in folders below the test's; at the end none is left."""
    programs: list[Program] = []

    def begin(folder: str, *words: str, **environment: str) -> Program:
        program = Program(tmp_path / folder, words, clean_environment(**environment))
        programs.append(program)
        return program

    yield begin
    for program in programs:
        program.close()


@pytest.fixture
def cluster(tmp_path: Path, fresh_postgres: Path) -> Callable[..., None]:
    """Put a PostgreSQL that was made before into a folder's data: quicker than making one."""

    def put(folder: str, data_dir: str = ".data") -> None:
        target = tmp_path / folder / data_dir / "postgres"
        target.parent.mkdir(parents=True)
        _copy_with_owners(fresh_postgres, target)

    return put


def shop(folder: Path) -> None:
    """A template and its handlers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "template.yaml").write_text(_TEMPLATE)
    (folder / "handlers.py").write_text(_HANDLERS)


def task(start: Start, folder: str, *words: str) -> str:
    """Start a task with the CLI; its id."""
    created = start(folder, "task", "create", "shop/pay", *words, "-o", "json")
    assert created.popen.wait(PATIENCE_SECONDS) == 0, created.err
    found: str = json.loads(created.out)["task_uuid"]
    return found


def test_two_devs_side_by_side_each_with_its_own_tasks(
    start: Start, tmp_path: Path, cluster: Callable[..., None]
) -> None:
    for name in ("one", "two"):
        shop(tmp_path / name)
        cluster(name)
    one = start("one", "dev", "handlers", "-t", "template.yaml")
    two = start("two", "dev", "handlers", "-t", "template.yaml", "--workers", "2")
    one.wait_for(READY)
    two.wait_for(READY)
    assert "2 processes" in two.out
    first, second = task(start, "one", "-s", "card=ok", "-w"), task(start, "two", "-s", "card=ok", "-w")
    for folder, known, unknown in (("one", first, second), ("two", second, first)):
        seen = start(folder, "task", "get", known)
        assert seen.popen.wait(PATIENCE_SECONDS) == 0
        assert start(folder, "task", "get", unknown).popen.wait(PATIENCE_SECONDS) == 3
    assert one.end(signal.SIGINT) == 0
    assert "stopped; the data stays" in one.err and "Traceback" not in one.err
    one.assert_gone()
    assert task(start, "two", "-s", "card=ok", "-w")
    assert two.end(signal.SIGTERM) == 0
    two.assert_gone()


def test_whatever_ends_it_nothing_is_left_but_the_data(
    start: Start, tmp_path: Path, cluster: Callable[..., None]
) -> None:
    shop(tmp_path / "a")
    cluster("a")
    dev = start("a", "dev", "handlers", "-t", "template.yaml", STEPWEAVE_LEASE_MS="1000")
    dev.wait_for(READY)
    task_id = task(start, "a", "-s", "card=ok", "-s", "hang=true")
    watching = start("a", "task", "watch", task_id)
    watching.wait_for("step.started")
    # A handler hangs: the first signal waits for it, the second does not.
    dev.send(signal.SIGINT)
    dev.wait_for("stopping …")
    dev.send(signal.SIGINT)
    dev.wait_for("stopping at once")
    assert dev.popen.wait(GRACE_SECONDS) == 0
    dev.assert_gone()
    watching.end()

    again = start("a", "dev", "handlers", "-t", "template.yaml", STEPWEAVE_LEASE_MS="1000")
    again.wait_for(READY)
    again.send(signal.SIGKILL)
    again.popen.wait(PATIENCE_SECONDS)
    again.assert_gone()

    last = start("a", "dev")
    last.wait_for(READY)
    seen = start("a", "task", "get", task_id, "-o", "json")
    assert seen.popen.wait(PATIENCE_SECONDS) == 0
    assert json.loads(seen.out)["completed_steps"] == 1
    assert last.end() == 0
    last.assert_gone()


def test_ctrl_c_while_it_starts(start: Start, tmp_path: Path) -> None:
    shop(tmp_path / "a")
    dev = start("a", "dev", "handlers", "-t", "template.yaml")
    dev.wait_for("starting PostgreSQL")
    until(lambda: len(dev.family()) > 1, "the first server")
    dev.end()
    dev.assert_gone()
    assert "Traceback" not in dev.err


@pytest.mark.parametrize(
    ("handlers", "template", "words", "code", "text"),
    [
        ("boom()\n", _TEMPLATE, ["handlers"], 1, "handlers.py:1"),
        ("x = 1\n", _TEMPLATE, ["handlers"], 1, "@step_handler"),
        (_HANDLERS, _TEMPLATE, ["no_such_module"], 3, "no_such_module"),
        (_HANDLERS, _TEMPLATE.replace("handler: shop_ship", "handlr: x"), ["handlers"], 1, "template.yaml:6"),
    ],
)
def test_what_cannot_run_is_said_in_a_sentence(
    start: Start,
    tmp_path: Path,
    database_url: str,
    nats_url: str,
    handlers: str,
    template: str,
    words: list[str],
    code: int,
    text: str,
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "handlers.py").write_text(handlers)
    (folder / "template.yaml").write_text(template)
    servers = {"DATABASE_URL": database_url, "NATS_URL": nats_url}
    dev = start("a", "dev", *words, "-t", "template.yaml", **servers)
    assert dev.popen.wait(PATIENCE_SECONDS) == code, dev.err
    assert text in dev.err and "Traceback" not in dev.err
    dev.assert_gone()


def test_existing_servers_are_used(start: Start, tmp_path: Path, database_url: str, nats_url: str) -> None:
    shop(tmp_path / "a")
    servers = {"DATABASE_URL": database_url, "NATS_URL": nats_url}
    dev = start("a", "dev", "handlers", "-t", "template.yaml", **servers)
    dev.wait_for(READY)
    assert not (tmp_path / "a" / ".data" / "postgres").exists()
    assert len(dev.family()) == 2  # itself and a worker
    assert task(start, "a", "-s", "card=ok", "-w")
    (tmp_path / "a" / "template.yaml").write_text(_TEMPLATE.replace("max_attempts: 2", "max_attempts: 3"))
    beside = start("a", "dev", "-t", "template.yaml", "--data-dir", ".other", **servers)
    beside.wait_for(READY)
    assert "differs from the registered shop/pay:1.0.0" in beside.err
    for program in (beside, dev):
        assert program.end() == 0
        program.assert_gone()


def test_handlers_that_no_worker_has_are_told(
    start: Start, tmp_path: Path, database_url: str, nats_url: str
) -> None:
    shop(tmp_path / "a")
    (tmp_path / "a" / "template.yaml").write_text(_TEMPLATE.replace("shop_ship", "shop_shop"))
    dev = start("a", "dev", "handlers", "-t", "template.yaml", DATABASE_URL=database_url, NATS_URL=nats_url)
    dev.wait_for("step ship: no handler is named 'shop_shop' in handlers")
    assert dev.end() == 0


def example(folder: Path, **inputs: dict[str, object]) -> None:
    """An example as `demo` wants it."""
    shop(folder)
    (folder / "inputs").mkdir()
    for name, content in inputs.items():
        (folder / "inputs" / f"{name}.json").write_text(json.dumps(content))


def test_demo(start: Start, tmp_path: Path) -> None:
    example(
        tmp_path / "examples" / "shop",
        success={"description": "all is well", "context": {"card": "ok"}},
        declined={
            "description": "the card is declined",
            "context": {"card": "declined"},
            "expect": "blocked_by_failures",
            "expect_failed_step": "charge",
        },
        timeout={"context": {"card": "slow"}, "expect": "complete"},
    )
    demo = start(".", "demo", "--examples", "examples")
    assert demo.popen.wait(PATIENCE_SECONDS) == 0, demo.err
    stories = {story.split()[0]: story for story in demo.out.split("== ")[1:]}
    assert list(stories) == ["shop/declined", "shop/success", "shop/timeout"]
    assert "step.retry_scheduled" in stories["shop/timeout"] and "send" not in stories["shop/timeout"]
    assert "task.blocked" in stories["shop/declined"] and "the card was declined" in stories["shop/declined"]
    assert stories["shop/success"].count("step.completed") == 2
    assert "shop/success: complete, as expected" in demo.err
    assert (tmp_path / ".data" / "demo" / "postgres").is_dir()
    assert not demo.left()

    # The same folder again; and an example that does not end as it says.
    wrong = tmp_path / "examples" / "shop" / "inputs" / "success.json"
    wrong.write_text('{"context": {"card": "declined"}, "expect": "complete"}')
    demo = start(".", "demo", "--examples", "examples")
    assert demo.popen.wait(PATIENCE_SECONDS) == 1
    assert "NOT AS EXPECTED: it should be complete, and is blocked_by_failures" in demo.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_is_interrupted(
    start: Start, tmp_path: Path, number: signal.Signals, cluster: Callable[..., None]
) -> None:
    example(tmp_path / "examples" / "shop", hang={"context": {"card": "ok", "hang": True}})
    cluster(".", ".data/demo")
    demo = start(".", "demo", "--examples", "examples")
    demo.wait_for("step.started")
    assert demo.end(number) == 130
    demo.assert_gone()
    assert "stopped; nothing runs any more" in demo.err and "Traceback" not in demo.err
