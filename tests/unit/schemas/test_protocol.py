"""`worker/PROTOCOL.md` says what the code says, as far as a machine can tell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from stepweave_schemas import codec, dispatch, result, subjects
from stepweave_schemas.identity import shard_of, step_uuid
from stepweave_schemas.json_schemas import documents
from stepweave_schemas.template import load_template_file

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "worker/PROTOCOL.md").read_text()
RULES = re.findall(r"^\| \*\*(P\d+)\*\* \| (.+) \|$", TEXT, re.MULTILINE)
#: `(subject, body)` of each request and publication of the session.
SENT = [
    (words[2], words[3])
    for line in re.findall(r"^\$ (nats .+)$", TEXT, re.MULTILINE)
    if len(words := shlex.split(line)) > 3
]
DOCUMENTS = documents()


def _validate(name: str, value: Any) -> None:
    jsonschema_rs.Draft202012Validator(DOCUMENTS[name]).validate(value)


def _section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_rules_are_numbered_without_gaps() -> None:
    assert [number for number, _ in RULES] == [f"P{index}" for index in range(1, len(RULES) + 1)]


@pytest.mark.parametrize("name", ["worker.mjs", "wire.mjs"])
def test_the_node_worker_names_rules_that_exist(name: str) -> None:
    named = set(re.findall(r"\bP\d+\b", (ROOT / "examples/node-worker" / name).read_text()))
    assert named
    assert named <= {number for number, _ in RULES}


def test_the_template_of_the_node_worker_loads_and_its_handlers_exist() -> None:
    folder = ROOT / "examples/node-worker"
    loaded = load_template_file(folder / "greeting.yaml")
    assert loaded.warnings == ()
    compose, render = loaded.template.steps
    assert f'@step_handler("{compose.handler.callable}")' in (folder / "handlers.py").read_text()
    assert f"function {render.handler.callable}(" in (folder / "handlers.mjs").read_text()
    assert (compose.queue, render.queue) == ("default", "node")


def test_the_bounds_are_those_of_the_code() -> None:
    rules = dict(RULES)
    assert f"{dispatch.RESULT_BYTES_MAX:,} bytes" in rules["P23"]
    assert f"{result.ERROR_MESSAGE_CHARS_MAX:,} characters" in rules["P23"]
    assert f"{result.RESULT_MESSAGE_BYTES_MAX:,} bytes" in rules["P23"]
    assert f"1 to {result.RESULTS_PER_MESSAGE_MAX}" in rules["P20"]
    assert f"{dispatch.DISPATCH_BYTES_MAX:,} bytes" in rules["P24"]
    assert f"{result.CURSORS_BYTES_MAX:,} bytes" in rules["P32"]
    assert f"{dispatch.RESULT_BYTES_MAX:,} bytes" in rules["P34"]
    assert f"{result.NAMES_MAX:,} at most" in rules["P31"]
    assert f"at most {result.DOMAIN_EVENTS_MAX}, each" in rules["P37"]
    assert f"{result.DOMAIN_EVENT_BYTES_MAX:,} bytes" in rules["P37"]
    assert f"{result.DOMAIN_EVENTS_BYTES_MAX:,}." in rules["P37"]
    assert f"1 to {result.DOMAIN_EVENT_NAME_CHARS_MAX} characters" in rules["P37"]
    assert dispatch.CONTEXT_BYTES_MAX == dispatch.INLINE_RESULTS_BYTES_MAX == 262_144
    assert "up to 262,144" in rules["P24"]


def test_the_tables_name_every_field_kind_and_error_type() -> None:
    fields = set(re.findall(r"`(\w+)`", _section("The dispatch")))
    assert {"kind", *dispatch.Dispatch.__struct_encode_fields__} - fields == {"kind"}
    outcomes = _section("Outcomes")
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| `(?:true|false)` \|$", outcomes, re.MULTILINE) == list(
        result.ERROR_TYPES
    )
    for name, schema in DOCUMENTS["outcome"]["$defs"].items():
        if "kind" not in schema["properties"]:
            continue  # a part of others
        row = re.search(rf"^\| `{schema['properties']['kind']['const']}` \|.*$", outcomes, re.MULTILINE)
        assert row is not None, name
        common = {"kind", "task_id", "step_uuid", "step_name", "attempt", "lease_token", "worker_id"}
        for field in schema["properties"].keys() - common:
            assert f"`{field}`" in row.group()


def test_the_names_follow_the_code() -> None:
    assert f"`{subjects.token('billing.eu')}`" in TEXT
    assert subjects.dispatch_stream("default") == "DISP_default"
    assert subjects.dispatch_consumer("default", "normal") == "default__normal"
    assert subjects.cancel_notice("default") == "sw.ctl.default.cancel"
    assert subjects.result("default", 3, subjects.MANY_TASKS) == "sw.res.default.3._"
    assert subjects.api("task", "results") == "sw.api.v1.task.results"
    for subject, body in SENT:
        if subject.startswith("sw.disp."):
            order = codec.decode_dispatch(body.encode())
            assert subject == subjects.dispatch("default", "default", "normal", order.lease_token)
            assert f'Received on "{subject}"' in TEXT


def test_the_examples_in_the_text_are_valid() -> None:
    order, *others = (msgspec.json.decode(text) for text in re.findall(r"```json\n(.+?)```", TEXT, re.DOTALL))
    _validate("dispatch", order)
    said = [value for value in others if "kind" in value]
    for outcome in said:
        _validate("outcome", outcome)
        assert codec.decode_dispatch(msgspec.json.encode(order)).lease_token == outcome["lease_token"]
    assert [outcome["kind"] for outcome in said] == ["success", "decision", "batches", "checkpoint"]


def test_the_example_of_a_batch_workers_inputs_fits_that_of_the_batches() -> None:
    (batches,) = [
        msgspec.json.decode(text)
        for text in re.findall(r"```json\n(.+?)```", TEXT, re.DOTALL)
        if '"kind":"batches"' in text
    ]
    (shown,) = re.findall(r"```json\n(\{\"cursor\".+?)```", TEXT, re.DOTALL)
    worker_inputs = msgspec.json.decode(shown)
    assert worker_inputs["cursor"] == batches["cursors"][int(worker_inputs["batch_id"]) - 1]
    assert worker_inputs["batch_count"] == len(batches["cursors"])


def test_the_dispatches_of_the_session_are_valid_and_their_ids_are_right() -> None:
    orders = [body for subject, body in SENT if subject.startswith("sw.disp.")]
    assert len(orders) == 5
    for body in orders:
        _validate("dispatch", msgspec.json.decode(body))
        order = codec.decode_dispatch(body.encode())
        assert order.step_uuid == step_uuid(order.task_id, order.step_name)
        shard = shard_of(order.task_id, 8)
        assert order.result_subject == subjects.result(order.namespace, shard, order.task_id)


def test_the_outcomes_of_the_session_are_valid_and_answer_their_dispatches() -> None:
    orders = {
        (order.step_uuid, order.attempt): order
        for subject, body in SENT
        if subject.startswith("sw.disp.")
        for order in [codec.decode_dispatch(body.encode())]
    }
    said = []
    for subject, body in SENT:
        if not subject.startswith("sw.res."):
            continue
        value = msgspec.json.decode(body)
        _validate("outcomes" if isinstance(value, list) else "outcome", value)
        for outcome in codec.decode_outcomes(body.encode()):
            order = orders[outcome.step_uuid, outcome.attempt]
            assert (outcome.task_id, outcome.lease_token) == (order.task_id, order.lease_token)
            many = order.result_subject.rpartition(".")[0] + f".{subjects.MANY_TASKS}"
            assert subject == (many if isinstance(value, list) else order.result_subject)
            said.append(outcome.KIND)
    assert said == ["started", "success", "success", "failure", "lost", "released"]
    notice = next(body for subject, body in SENT if subject.startswith("sw.ctl."))
    _validate("cancel_notice", msgspec.json.decode(notice))
