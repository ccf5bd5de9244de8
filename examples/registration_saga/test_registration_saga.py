"""The saga without a server: its compensations one at a time, and whole registrations in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepweave import Registry, ServiceUnavailableError, ValidationFailed
from stepweave.testing import WorkflowRun, run_handler, run_workflow

from . import handlers, services

FOLDER = Path(__file__).parent
BOUNCES = {"user_id": "grace", "email": "grace@nowhere.example"}


def register(context: dict[str, Any]) -> WorkflowRun:
    """The whole template in memory; delays between tries take no time."""
    registry = Registry()
    registry.discover(handlers)
    return run_workflow(FOLDER / "template.yaml", registry, context)


def undone(run: WorkflowRun) -> list[str]:
    """The steps that were undone, in the order in which that ended."""
    return [event["compensates"] for event in run.events if event.type == "compensation.completed"]


def place(run: WorkflowRun, event_type: str, step: str) -> int:
    """Where an event stands in the history."""
    return [(event.type, event.get("step_name")) for event in run.events].index((event_type, step))


def test_a_duplicate_address_names_what_is_to_be_undone() -> None:
    result = run_handler(
        handlers.create_user_profile,
        {"user_id": "alan", "email": "Taken@Mail.Example"},
        dependencies={"create_auth_account": {"account_id": "acc_1"}},
    )
    assert (result.error_code, result.retryable) == ("duplicate_email", False)
    assert result.compensation_steps == ["delete_auth_account"]
    assert result.metadata["email"] == "Taken@Mail.Example"


def test_an_account_is_deleted_by_the_result_of_the_step_that_made_it() -> None:
    result = run_handler(
        handlers.delete_auth_account,
        compensates="create_auth_account",
        dependencies={"create_auth_account": {"account_id": "acc_1"}},
    )
    assert result.result == {"compensated": True}


def test_a_locked_account_is_left_for_people() -> None:
    result = run_handler(
        handlers.delete_auth_account,
        {"simulate": {"account_locked": True}},
        dependencies={"create_auth_account": {"account_id": "acc_1"}},
    )
    assert result.is_success
    assert (result.result["compensated"], result.result["requires_manual_cleanup"]) == (False, True)
    assert "acc_1" in result.result["error"]


def test_a_service_that_is_down_is_down_for_so_many_requests_only() -> None:
    with pytest.raises(ServiceUnavailableError):
        services.deactivate_profile("prof_1", idempotency_key="key", request_number=1, down_for_requests=1)
    services.deactivate_profile("prof_1", idempotency_key="key", request_number=2, down_for_requests=1)


def test_nothing_is_undone_where_all_goes_well() -> None:
    run = register({"user_id": "ada", "email": "ada@mail.example"})
    assert (run.status, run.task.compensation_status) == ("complete", None)
    assert run.results["send_welcome_email"]["recipient"] == "ada@mail.example"
    assert place(run, "step.enqueued", "track_user_signup") < place(
        run, "step.completed", "setup_notification_preferences"
    )


def test_what_was_named_and_declared_is_undone_once() -> None:
    run = register({"user_id": "alan", "email": "taken@mail.example"})
    assert (run.status, run.task.compensation_status) == ("error", "complete")
    assert undone(run) == ["create_auth_account"]
    assert run.state("create_user_profile") == "error"
    assert run.state("create_auth_account") == "compensated"
    assert run.state("send_welcome_email") == "pending"


def test_everything_is_undone_in_reverse_order() -> None:
    run = register(BOUNCES)
    assert (run.status, run.task.compensation_status) == ("error", "complete")
    order = undone(run)
    assert set(order[:2]) == {"setup_notification_preferences", "track_user_signup"}
    assert order[2:] == ["create_user_profile", "create_auth_account"]
    # The first two do not wait for each other, the profile waits for both.
    begun = [
        place(run, "step.enqueued", f"compensate:{step}")
        for step in ("setup_notification_preferences", "track_user_signup")
    ]
    assert abs(begun[0] - begun[1]) == 1
    assert place(run, "step.enqueued", "compensate:create_user_profile") > max(
        place(run, "compensation.completed", f"compensate:{step}") for step in order[:2]
    )


def test_a_compensation_is_tried_again_as_any_step() -> None:
    run = register(BOUNCES | {"simulate": {"deactivation_down_for_tries": 2}})
    assert run.task.compensation_status == "complete"
    assert run.delays_seconds("compensate:create_user_profile") == [
        pytest.approx(0.1, rel=0.1),
        pytest.approx(0.2, rel=0.1),
    ]


def test_what_cannot_be_undone_does_not_stop_the_rest() -> None:
    run = register(BOUNCES | {"simulate": {"deactivation_down_for_tries": 9}})
    assert (run.status, run.task.compensation_status) == ("error", "partial")
    assert run.events[-1]["requires_manual_cleanup"] == ["create_user_profile"]
    assert undone(run)[-1] == "create_auth_account"
    assert run.state("create_user_profile") == "complete"
    assert run.task.step("create_user_profile").requires_manual_cleanup


def test_a_compensation_may_say_that_it_left_something() -> None:
    run = register(BOUNCES | {"simulate": {"account_locked": True}})
    assert (run.status, run.task.compensation_status) == ("error", "partial")
    assert run.events[-1]["requires_manual_cleanup"] == ["create_auth_account"]
    assert run.results["compensate:create_auth_account"]["compensated"] is False


def test_a_service_that_comes_back_in_time_undoes_nothing() -> None:
    run = register(
        {"user_id": "ada", "email": "ada@mail.example", "simulate": {"profiles_down_for_tries": 2}}
    )
    assert (run.status, run.attempts("create_user_profile")) == ("complete", 3)


@pytest.mark.parametrize("context", [{"user_id": "ada"}, {"user_id": "", "email": "ada@mail.example"}])
def test_a_context_of_the_wrong_make_never_starts(context: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        register(context)


@pytest.mark.parametrize("path", sorted((FOLDER / "inputs").glob("*.json")), ids=lambda path: path.stem)
def test_every_demo_run_ends_as_it_says(path: Path) -> None:
    wanted = json.loads(path.read_text())
    run = register(wanted["context"])
    assert (run.status, run.task.compensation_status) == (
        wanted["expect"],
        wanted.get("expect_compensation"),
    )
    in_error = [step.name for step in run.task.steps if step.current_state == "error"]
    assert in_error == ([wanted["expect_failed_step"]] if "expect_failed_step" in wanted else [])
