"""`dev` and `demo` as processes: signals, crashes, neighbours, and that nothing stays behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import _copy_with_owners
from tests.unit.cli.typed import (
    PATIENCE_SECONDS,
    Answer,
    Program,
    Type,
    clean_environment,
    typing_here,
    until,
)

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


@pytest.fixture
def stepweave(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type a command in one of the folders, named first."""
    type_command = typing_here(capfd, monkeypatch)

    def in_folder(folder: str, *words: str) -> Answer:
        monkeypatch.chdir(tmp_path / folder)
        return type_command(*words)

    return in_folder


def pay(stepweave: Type, folder: str, *words: str) -> str:
    """Start a task; its id."""
    created = stepweave(folder, "task", "create", "shop/pay", "-s", "card=ok", *words, "-o", "json")
    assert created.code == 0, created.err
    found: str = json.loads(created.out)["task_uuid"]
    return found


def test_two_devs_side_by_side_each_with_its_own_tasks(
    start: Start, stepweave: Type, tmp_path: Path, cluster: Callable[..., None]
) -> None:
    for name in ("one", "two"):
        shop(tmp_path / name)
        cluster(name)
    one = start("one", "dev", "handlers", "-t", "template.yaml")
    two = start("two", "dev", "handlers", "-t", "template.yaml", "--workers", "2")
    one.wait_for(READY)
    two.wait_for(READY)
    assert "2 processes" in two.out
    first, second = pay(stepweave, "one", "-w"), pay(stepweave, "two", "-w")
    for folder, known, unknown in (("one", first, second), ("two", second, first)):
        assert stepweave(folder, "task", "get", known).code == 0
        assert stepweave(folder, "task", "get", unknown).code == 3
    assert one.end(signal.SIGINT) == 0
    assert "stopped; the data stays" in one.err and "Traceback" not in one.err
    one.assert_gone()
    assert pay(stepweave, "two", "-w")
    assert two.end(signal.SIGTERM) == 0
    two.assert_gone()


def test_whatever_ends_it_nothing_is_left_but_the_data(
    start: Start, stepweave: Type, tmp_path: Path, cluster: Callable[..., None]
) -> None:
    shop(tmp_path / "a")
    cluster("a")
    dev = start("a", "dev", "handlers", "-t", "template.yaml", STEPWEAVE_LEASE_MS="1000")
    dev.wait_for(READY)
    task_id = pay(stepweave, "a", "-s", "hang=true")
    until(lambda: "step.started" in stepweave("a", "events", "list", task_id).out, "the hanging step")
    # A handler hangs: the first signal waits for it, the second does not.
    dev.send(signal.SIGINT)
    dev.wait_for("stopping …")
    dev.send(signal.SIGINT)
    dev.wait_for("stopping at once")
    assert dev.popen.wait(GRACE_SECONDS) == 0
    dev.assert_gone()

    again = start("a", "dev", "handlers", STEPWEAVE_LEASE_MS="1000")
    again.wait_for(READY)
    again.send(signal.SIGKILL)
    again.popen.wait(PATIENCE_SECONDS)
    again.assert_gone()

    last = start("a", "dev")
    last.wait_for(READY)
    seen = stepweave("a", "task", "get", task_id, "-o", "json")
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
    ("files", "words", "code", "text"),
    [
        ({"handlers.py": "boom()\n"}, ["handlers"], 1, "handlers.py:1"),
        (
            {"template.yaml": "steps: []\nnam: x\n"},
            ["-t", "template.yaml"],
            1,
            "template.yaml:2: UNKNOWN_KEY nam",
        ),
        ({}, ["-t", "nowhere.yaml"], 2, "nowhere.yaml"),
    ],
)
def test_what_cannot_run_is_said_in_a_sentence(
    start: Start,
    tmp_path: Path,
    database_url: str,
    nats_url: str,
    files: dict[str, str],
    words: list[str],
    code: int,
    text: str,
) -> None:
    (tmp_path / "a").mkdir()
    for name, content in files.items():
        (tmp_path / "a" / name).write_text(content)
    dev = start("a", "dev", *words, DATABASE_URL=database_url, NATS_URL=nats_url)
    assert dev.popen.wait(PATIENCE_SECONDS) == code, dev.err
    assert text in dev.err and "Traceback" not in dev.err
    dev.assert_gone()


def test_existing_servers_are_used(
    start: Start, stepweave: Type, tmp_path: Path, database_url: str, nats_url: str
) -> None:
    shop(tmp_path / "a")
    servers = {"DATABASE_URL": database_url, "NATS_URL": nats_url}
    dev = start("a", "dev", "handlers", "-t", "template.yaml", **servers)
    dev.wait_for(READY)
    assert not (tmp_path / "a" / ".data" / "postgres").exists()
    assert len(dev.family()) == 2  # itself and a worker
    assert pay(stepweave, "a", "-w")
    # A second one beside it, with a template that is registered with other content, and one without handlers.
    (tmp_path / "a" / "template.yaml").write_text(_TEMPLATE.replace("max_attempts: 2", "max_attempts: 3"))
    (tmp_path / "a" / "other.yaml").write_text(
        _TEMPLATE.replace("pay", "gift").replace("shop_ship", "shop_wrap")
    )
    beside = start("a", "dev", "handlers", "-t", ".", "--data-dir", ".other", **servers)
    beside.wait_for("shop/gift:1.0.0, step ship: no handler is named 'shop_wrap' in handlers")
    assert "template.yaml differs from the registered shop/pay:1.0.0" in beside.err
    for program in (beside, dev):
        assert program.end() == 0
        program.assert_gone()


def example(folder: Path, **inputs: dict[str, object]) -> None:
    """An example as `demo` wants it."""
    shop(folder)
    (folder / "inputs").mkdir()
    for name, content in inputs.items():
        (folder / "inputs" / f"{name}.json").write_text(json.dumps(content))


def test_demo_runs_the_examples_as_shipped(start: Start, cluster: Callable[..., None]) -> None:
    cluster(".", ".data/demo")
    demo = start(".", "demo")
    assert demo.popen.wait(PATIENCE_SECONDS) == 0, demo.err
    demo.assert_gone()
    stories = {story.split()[0]: story for story in demo.out.split("\n== ")[1:]}
    assert "step.retry_scheduled" in stories["ecommerce_checkout/gateway_timeout"]
    assert "task.completed" in stories["ecommerce_checkout/gateway_timeout"]
    assert "task.blocked" in stories["ecommerce_checkout/card_declined"]
    assert stories["ecommerce_checkout/paid"].count("step.completed") == 5
    assert {title.partition("/")[0] for title in stories} >= {"order_fulfilment", "user_registration"}
    assert demo.err.count(", as expected") == len(stories)


def test_demo_fails_where_a_run_does_not_end_as_it_says(
    start: Start, tmp_path: Path, database_url: str, nats_url: str
) -> None:
    example(
        tmp_path / "examples" / "shop",
        right={"context": {"card": "slow"}},
        status={"context": {"card": "declined"}, "expect": "complete"},
        step={"context": {"card": "ok"}, "expect_failed_step": "ship"},
        slow={"context": {"card": "ok", "hang": True}},
    )
    demo = start(
        ".", "demo", "--examples", "examples", "--timeout", "2", DATABASE_URL=database_url, NATS_URL=nats_url
    )
    assert demo.popen.wait(PATIENCE_SECONDS) == 1, demo.err
    assert "shop/right: complete, as expected" in demo.err
    assert "shop/status: blocked_by_failures, NOT AS EXPECTED: it should be complete" in demo.err
    assert "shop/step: complete, NOT AS EXPECTED: its step ship should have failed" in demo.err
    assert "shop/slow: unfinished, NOT AS EXPECTED: it did not end within 2 s" in demo.err
    assert demo.out.count("NOT AS EXPECTED") == 3


def test_demo_on_a_database_that_has_other_templates(
    start: Start, tmp_path: Path, database_url: str, nats_url: str
) -> None:
    servers = {"DATABASE_URL": database_url, "NATS_URL": nats_url}
    example(tmp_path / "examples" / "shop", right={"context": {"card": "ok"}})
    first = start(".", "demo", "--examples", "examples", **servers)
    assert first.popen.wait(PATIENCE_SECONDS) == 0, first.err
    (tmp_path / "examples" / "shop" / "template.yaml").write_text(
        _TEMPLATE.replace("max_attempts: 2", "max_attempts: 3")
    )
    second = start(".", "demo", "--examples", "examples", **servers)
    assert second.popen.wait(PATIENCE_SECONDS) == 4, second.err
    assert "differs from the registered shop/pay:1.0.0" in second.err
    assert "raise its version, or give another database in DATABASE_URL" in second.err
    assert "remove" not in second.err


def test_demo_is_interrupted(start: Start, tmp_path: Path, cluster: Callable[..., None]) -> None:
    example(tmp_path / "examples" / "shop", hang={"context": {"card": "ok", "hang": True}})
    cluster(".", ".data/demo")
    demo = start(".", "demo", "--examples", "examples")
    demo.wait_for("step.started")
    assert demo.end(signal.SIGINT) == 130
    demo.assert_gone()
    assert "stopped; nothing runs any more" in demo.err and "Traceback" not in demo.err
