"""The registration without a server: its handlers one at a time, and the whole diamond in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, StepHandlerResult, ValidationFailed
from stepweave.testing import WorkflowRun, run_handler, run_workflow

from . import handlers

FOLDER = Path(__file__).parent
TRIALS = {"trial_days": {"free": 0, "pro": 14, "enterprise": 30}}
ACCOUNT: dict[str, Any] = {
    "user_id": "usr_1",
    "email": "jane@mail.example",
    "name": "Jane",
    "plan": "pro",
    "status": "created",
}


def register(**user_info: Any) -> StepHandlerResult:
    return run_handler(handlers.CreateUserAccountHandler, {"user_info": user_info})


def test_an_account_is_created_once() -> None:
    account = register(email="Jane@Mail.Example", name="Jane").result
    assert account["email"] == "jane@mail.example"
    assert account["plan"] == "free"
    assert account["status"] == "created"
    tries = [
        run_handler(
            handlers.CreateUserAccountHandler,
            {"user_info": {"email": "jane@mail.example"}},
            attempt=attempt,
            task_uuid="0197c3a0-0000-7000-8000-000000000004",
        ).result["user_id"]
        for attempt in (1, 2)
    ]
    assert tries[0] == tries[1]


@pytest.mark.parametrize(
    ("user_info", "error_code"),
    [
        ({}, "MISSING_EMAIL"),
        ({"email": ""}, "MISSING_EMAIL"),
        ({"email": "jane at mail"}, "INVALID_EMAIL"),
        ({"email": "jane@mailinator.com"}, "BLOCKED_EMAIL_DOMAIN"),
        ({"email": "jane@TempMail.com"}, "BLOCKED_EMAIL_DOMAIN"),
    ],
)
def test_who_may_not_register_is_refused_for_good(user_info: dict[str, Any], error_code: str) -> None:
    result = register(**user_info)
    assert (result.error_code, result.retryable) == (error_code, False)


def test_a_context_without_user_info_is_an_empty_one() -> None:
    assert run_handler(handlers.CreateUserAccountHandler, {}).error_code == "MISSING_EMAIL"


def bill(plan: str, *, attempt: int = 1, **simulate: int) -> StepHandlerResult:
    return run_handler(
        handlers.setup_billing_profile,
        {"simulate": simulate} if simulate else {},
        config=TRIALS,
        dependencies={"create_user_account": ACCOUNT | {"plan": plan}},
        attempt=attempt,
    )


@pytest.mark.parametrize(("plan", "days"), [("free", 0), ("pro", 14), ("enterprise", 30)])
def test_the_template_says_how_long_a_trial_is(plan: str, days: int) -> None:
    assert bill(plan).result["trial_days"] == days


def test_an_unknown_plan_is_refused_for_good() -> None:
    result = bill("gold")
    assert (result.error_code, result.retryable) == ("UNKNOWN_PLAN", False)


def test_billing_comes_back() -> None:
    for attempt in (1, 2):
        result = bill("pro", attempt=attempt, billing_down_for_tries=2)
        assert (result.error_code, result.retryable) == ("BILLING_UNAVAILABLE", True)
    assert bill("pro", attempt=3, billing_down_for_tries=2).is_success


def prefer(chosen: dict[str, Any] | None) -> dict[str, Any]:
    result = run_handler(
        handlers.initialize_preferences,
        {"user_info": {"preferences": chosen}},
        dependencies={"create_user_account": ACCOUNT},
    )
    preferences: dict[str, Any] = result.result["preferences"]
    return preferences


def test_preferences_are_defaults_and_choices() -> None:
    assert prefer(None) == {"language": "en", "notifications": {"email": True, "push": False}}
    assert prefer({"language": "de", "notifications": {"push": True}}) == {
        "language": "de",
        "notifications": {"email": True, "push": True},
    }


def welcome(*, trial_days: int, push: bool) -> StepHandlerResult:
    return run_handler(
        handlers.SendWelcomeSequenceHandler,
        dependencies={
            "create_user_account": ACCOUNT,
            "setup_billing_profile": {"trial_days": trial_days},
            "initialize_preferences": {"preferences": {"notifications": {"push": push}}},
        },
    )


@pytest.mark.parametrize(
    ("trial_days", "push", "types", "channels"),
    [
        (0, False, ["welcome"], ["email"]),
        (14, False, ["welcome", "trial_started"], ["email"]),
        (14, True, ["welcome", "trial_started", "welcome"], ["email", "push"]),
    ],
)
def test_the_welcome_fits_the_user(
    trial_days: int, push: bool, types: list[str], channels: list[str]
) -> None:
    result = welcome(trial_days=trial_days, push=push)
    assert [message["type"] for message in result.metadata["messages"]] == types
    assert result.result["messages_sent"] == len(types)
    assert result.result["channels_used"] == channels


def test_the_welcome_needs_all_three() -> None:
    result = run_handler(handlers.SendWelcomeSequenceHandler, dependencies={"create_user_account": ACCOUNT})
    assert (result.error_code, result.retryable) == ("MISSING_DEPENDENCIES", False)


def test_the_account_becomes_active() -> None:
    result = run_handler(
        handlers.UpdateUserStatusHandler,
        dependencies={
            "create_user_account": ACCOUNT,
            "setup_billing_profile": {"trial_days": 14},
            "send_welcome_sequence": {"channels_used": ["email"]},
        },
    ).result
    assert (result["user_id"], result["status"], result["trial_days"]) == ("usr_1", "active", 14)
    assert result["welcomed_over"] == ["email"]


def run(context: dict[str, Any]) -> WorkflowRun:
    """The whole template in memory; delays between tries take no time."""
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(FOLDER / "template.yaml", registry, context)


def place(done: WorkflowRun, event_type: str, step: str) -> int:
    """Where an event stands in the history."""
    return [(event.type, event.get("step_name")) for event in done.events].index((event_type, step))


def test_the_diamond() -> None:
    done = run({"user_info": {"email": "jane@mail.example", "name": "Jane", "plan": "pro"}})
    assert done.status == "complete"
    created = place(done, "step.completed", "create_user_account")
    assert sorted(event["step_name"] for event in done.events[created + 1 : created + 3]) == [
        "initialize_preferences",
        "setup_billing_profile",
    ]
    welcome_starts = place(done, "step.enqueued", "send_welcome_sequence")
    for branch in ("setup_billing_profile", "initialize_preferences"):
        assert place(done, "step.completed", branch) < welcome_starts
    assert done.results["update_user_status"]["status"] == "active"
    assert done.results["update_user_status"]["trial_days"] == 14


def test_preferences_do_not_wait_for_billing() -> None:
    done = run({"user_info": {"email": "jane@mail.example"}, "simulate": {"billing_down_for_tries": 2}})
    assert done.status == "complete"
    assert done.attempts("setup_billing_profile") == 3
    assert done.delays_seconds("setup_billing_profile") == [
        pytest.approx(0.2, rel=0.1),
        pytest.approx(0.4, rel=0.1),
    ]
    assert place(done, "step.completed", "initialize_preferences") < place(
        done, "step.completed", "setup_billing_profile"
    )


def test_billing_gives_up_and_the_welcome_never_starts() -> None:
    done = run({"user_info": {"email": "jane@mail.example"}, "simulate": {"billing_down_for_tries": 9}})
    assert done.status == "blocked_by_failures"
    assert set(done.results) == {"create_user_account", "initialize_preferences"}


@pytest.mark.parametrize(
    "context",
    [
        {"user_info": "jane@mail.example"},
        {"user_info": {"preferences": {"notifications": {"push": "yes"}}}},
        {"simulate": {"billing_down_for_tries": -1}},
    ],
)
def test_a_context_of_the_wrong_make_never_starts(context: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        run(context)


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(path: Path) -> None:
    wanted = json.loads(path.read_text())
    done = run(wanted["context"])
    assert done.status == wanted["expect"]
    in_error = [step.name for step in done.task.steps if step.current_state == "error"]
    assert in_error == ([wanted["expect_failed_step"]] if "expect_failed_step" in wanted else [])
