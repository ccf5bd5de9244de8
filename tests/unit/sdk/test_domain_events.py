"""Domain events in the SDK: what handlers publish, how they are read, and who hears of which."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave import BaseSubscriber, Event, StepContext, StepHandler, StepHandlerResult, step_handler
from stepweave.errors import ConfigurationError
from stepweave.subscriber.base import method_name
from stepweave.subscriber.patterns import Pattern, address_of, choose_feed, filter_subjects
from stepweave.testing import assert_events, make_context, run_handler, run_workflow
from stepweave_schemas.envelope import Envelope
from stepweave_schemas.result import DOMAIN_EVENT_BYTES_MAX, DOMAIN_EVENTS_MAX

# -- publishing ------------------------------------------------------------------------------------


def test_a_handler_publishes_and_what_it_does_later_changes_nothing() -> None:
    payload = {"order": 7}

    def pay(context: StepContext) -> dict[str, bool]:
        context.publish_event("order.paid", payload)
        payload["order"] = 8
        context.publish_event("order.counted")
        return {"ok": True}

    done = run_handler(pay)
    assert done.result == {"ok": True}
    assert [(one.name, one.payload, one.problem) for one in done.domain_events] == [
        ("order.paid", {"order": 7}, ""),
        ("order.counted", None, ""),
    ]


def test_failures_and_classes_publish_too() -> None:
    class Pay(StepHandler):
        handler_name = "pay"

        async def call(self, context: StepContext) -> StepHandlerResult:
            context.publish_event("payment.refused", {"why": "limit"})
            raise ValueError("no")

    done = run_handler(Pay)
    assert (done.is_success, done.error_message) == (False, "ValueError: no")
    assert [one.payload for one in done.domain_events] == [{"why": "limit"}]


def test_a_try_that_takes_too_long_tells_what_it_has_published() -> None:
    import asyncio

    async def slow(context: StepContext) -> None:
        context.publish_event("work.begun")
        await asyncio.sleep(3600)

    done = run_handler(slow, timeout_seconds=0.05)
    assert (done.error_type, [one.name for one in done.domain_events]) == ("timeout", ["work.begun"])


@pytest.mark.parametrize(
    ("name", "payload", "problem"),
    [
        ("order.paid", {"at": object()}, "payload.at"),
        ("order.paid", float("nan"), "NaN"),
        ("order.paid", "x" * DOMAIN_EVENT_BYTES_MAX, "publish a reference"),
        ("", 1, "is a text"),
        (7, 1, "is a text"),
    ],
)
def test_what_cannot_be_published_is_said_and_fails_nothing(name: Any, payload: Any, problem: str) -> None:
    context = make_context()
    context.publish_event(name, payload)
    [one] = context.published_events
    assert problem in one.problem
    assert one.payload is None


def test_what_is_published_has_bounds() -> None:
    context = make_context()
    for number in range(DOMAIN_EVENTS_MAX + 20):
        context.publish_event("counted", number)
    events = context.published_events
    assert len(events) == DOMAIN_EVENTS_MAX + 1
    assert [one.problem for one in events[:-1]] == [""] * DOMAIN_EVENTS_MAX
    assert "left out" in events[-1].problem
    context = make_context()
    for _ in range(6):
        context.publish_event("large", "x" * 60_000)
    assert [bool(one.problem) for one in context.published_events] == [False] * 4 + [True] * 2


# -- a whole workflow ------------------------------------------------------------------------------

TEMPLATE = """\
name: payment
domain_events: [{name: order.noted, payload_schema: {type: object, required: [text]}}]
steps:
- name: charge
  handler: charge
  publishes_events:
  - {name: order.paid, schema: {type: object, required: [amount]}}
  - {name: payment.failed, condition: permanent_failure}
  result_schema: {type: object, required: [amount]}
"""


@step_handler("charge")
async def charge(context: StepContext) -> Any:
    context.publish_event("order.noted", context.get_input("note"))
    return context.get_input("result")


def test_a_workflow_in_memory_publishes_and_checks_the_same_way() -> None:
    run = run_workflow(TEMPLATE, [charge], {"note": {"text": "hi"}, "result": {"amount": 5}})
    assert run.status == "complete"
    assert run.published("order.paid") == [{"amount": 5}]
    assert run.published("order.noted") == [{"text": "hi"}]
    assert_events(
        run, [..., "step.completed charge", "domain.order.noted", "domain.order.paid", "task.completed"]
    )


def test_in_memory_what_does_not_fit_is_refused_the_same_way() -> None:
    run = run_workflow(TEMPLATE, [charge], {"note": "hi", "result": {"amount": 5}})
    assert run.status == "complete"
    assert run.published("order.noted") == []
    assert_events(
        run,
        [
            ...,
            {"type": "step.domain_event_refused", "name": "order.noted", "refusal": "payload_invalid"},
            "domain.order.paid charge",
            ...,
        ],
    )
    run = run_workflow(TEMPLATE, [charge], {"note": {"text": "hi"}, "result": {}})
    assert (run.status, run.task.step("charge").error_code) == ("blocked_by_failures", "RESULT_INVALID")
    assert [one["error_code"] for one in run.published("payment.failed")] == ["RESULT_INVALID"]
    # It goes with a success, and there was none.
    assert run.published("order.noted") == []


# -- subscribing -----------------------------------------------------------------------------------


def published(name: str) -> Envelope:
    data = {"type": "domain.published", "name": name, "payload": {"order": 7}, "step_name": "pay"}
    at = "2026-01-01T00:00:00.000Z"
    raw = msgspec.Raw(msgspec.json.encode(data))
    return Envelope(0, 1, "task", 1, "domain.published", 1, at, "c", "", "a", raw)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("domain.order.paid", ["order.paid"]),
        ("domain.order.*", ["order.paid", "order.Line-2.added"]),
        ("domain.*", ["order.paid", "order.Line-2.added", "stock"]),
        ("domain.published", ["order.paid", "order.Line-2.added", "stock"]),
        ("*", ["order.paid", "order.Line-2.added", "stock"]),
        ("domain.order.Line-2.added", ["order.Line-2.added"]),
        ("domain.s?ock", ["stock"]),
        ("step.*", []),
    ],
)
def test_patterns_over_names(pattern: str, names: list[str]) -> None:
    every = ["order.paid", "order.Line-2.added", "stock"]
    assert [name for name in every if Pattern(pattern).matches(address_of(published(name)))] == names
    assert not Pattern("domain.order.*").matches("step.failed")


@pytest.mark.parametrize("text", ["domain.", "domain..paid", "domain.order.", "domain.a b", "domain.-"])
def test_patterns_that_name_no_event(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Pattern(text)


def test_the_signal_feed_is_read_by_name() -> None:
    one, two, some = Pattern("domain.order.paid"), Pattern("domain.stock.low"), Pattern("domain.order.*")
    failed = Pattern("step.failed")
    assert choose_feed([one, some, failed]) == "signal"
    assert filter_subjects("signal", [(one, "shop"), (two, None), (failed, None)]) == [
        "sw.evt.*.*.*.domain.order.paid",
        "sw.evt.*.*.*.domain.stock.low",
        "sw.evt.*.*.*.step.failed",
    ]
    # Filters of one consumer must not overlap.
    for wide in (some, Pattern("domain.published")):
        assert filter_subjects("signal", [(one, "shop"), (wide, "shop")]) == ["sw.evt.shop.*.*.domain.>"]


def test_classes_take_domain_events_by_name() -> None:
    class Shop(BaseSubscriber):
        subscribe_to = ("domain.order.paid", "domain.stock.*", "step.failed")

        def handle_domain_order_paid(self, event: Event) -> None: ...

        def handle_event(self, event: Event) -> None: ...

    shop = Shop()
    assert [(pattern.text, method.__name__) for pattern, method in shop.handlers()] == [
        ("domain.order.paid", "handle_domain_order_paid"),
        ("domain.stock.*", "handle_event"),
        ("step.failed", "handle_event"),
    ]
    assert method_name("domain.order-line.added") == "handle_domain_order_line_added"

    class Nothing(BaseSubscriber):
        subscribe_to = "domain.order.paid"

    with pytest.raises(ConfigurationError, match="handle_domain_order_paid"):
        Nothing().handlers()


def test_an_event_says_what_it_is_called() -> None:
    event = Event(published("order.paid"), namespace="shop", task_name="payment")
    assert (event.type, event.address, event.name) == ("domain.published", "domain.order.paid", "order.paid")
    assert event["payload"] == {"order": 7}
    assert (event.namespace, event.task_name) == ("shop", "payment")
