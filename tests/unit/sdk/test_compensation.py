"""What a failure wants undone, and handlers that undo."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepweave import (
    BusinessLogicError,
    ConfigurationError,
    PermanentError,
    RetryableError,
    StepContext,
    StepHandler,
    StepHandlerResult,
    depends_on,
    step_handler,
)
from stepweave.testing import make_dispatch, run_handler
from stepweave.worker.execution import outcome_of
from stepweave_schemas.result import Failure


class CreateUserProfileHandler(StepHandler):
    """Seed 000, nearly word for word."""

    handler_name = "create_user_profile"

    def call(self, context: StepContext) -> StepHandlerResult:
        email = context.configuration["email"]
        auth_token = context.parent_results["create_auth_account"]["auth_token"]
        match email:
            case "taken@example.org":
                return StepHandlerResult.permanent_failure_with_compensation(
                    "duplicate_email", {"email": email}, ["delete_auth_account"]
                )
            case "odd@example.org":
                return self.failure("odd", retryable=False, compensation_steps=["delete_auth_account"])
        return self.success({"profile_id": 7, "auth_token": auth_token})


@step_handler("delete_auth_account")
@depends_on(account="create_auth_account")
def delete_auth_account(account: dict[str, Any], context: StepContext) -> dict[str, Any]:
    return {"compensated": True, "user_id": account["user_id"], "undoes": context.compensates}


_ACCOUNT = {"create_auth_account": {"auth_token": "t", "user_id": 3}}


def test_a_failure_names_what_is_to_be_undone() -> None:
    failure = run_handler(CreateUserProfileHandler, {"email": "taken@example.org"}, dependencies=_ACCOUNT)
    assert (failure.error_code, failure.error_type) == ("duplicate_email", "permanent_error")
    assert (failure.error_message, failure.metadata) == ("duplicate_email", {"email": "taken@example.org"})
    assert (failure.retryable, failure.compensation_steps) == (False, ["delete_auth_account"])
    odd = run_handler(CreateUserProfileHandler, {"email": "odd@example.org"}, dependencies=_ACCOUNT)
    assert odd.compensation_steps == ["delete_auth_account"]
    fine = run_handler(CreateUserProfileHandler, {"email": "a@example.org"}, dependencies=_ACCOUNT)
    assert fine.compensation_steps == []


def test_the_handler_that_undoes_knows_what() -> None:
    undone = run_handler(delete_auth_account, dependencies=_ACCOUNT, compensates="create_auth_account")
    assert undone.result == {"compensated": True, "user_id": 3, "undoes": "create_auth_account"}


def test_errors_name_it_too() -> None:
    def handler(context: StepContext) -> None:
        raise PermanentError("taken", error_code="TAKEN", compensation_steps=["a", "b", "a"])

    failure = run_handler(handler)
    assert (failure.error_code, failure.compensation_steps) == ("TAKEN", ["a", "b"])

    def one(context: StepContext) -> None:
        raise BusinessLogicError("no", compensation_steps="a")

    assert run_handler(one).compensation_steps == ["a"]

    def again(context: StepContext) -> None:
        raise RetryableError("later", compensation_steps=("a",))

    later = run_handler(again)
    assert (later.retryable, later.compensation_steps) == (True, ["a"])


def test_wrong_names_do_not_hide_the_error() -> None:
    def handler(context: StepContext) -> None:
        raise PermanentError("taken", compensation_steps=["a", 5])  # type: ignore[list-item]

    failure = run_handler(handler)
    assert (failure.error_message, failure.compensation_steps) == ("taken", [])
    assert failure.metadata == {
        "compensation_steps_ignored": "compensation_steps[1]: expected the name of a step, not 5"
    }


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([""], r"compensation_steps\[0\]: expected the name of a step, not ''"),
        ([None], r"compensation_steps\[0\]: expected the name of a step, not None"),
        (7, "compensation_steps: expected the name of a step or a list of names, not 7"),
    ],
)
def test_wrong_names_are_refused(steps: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        StepHandlerResult.failure("no", compensation_steps=steps)
    with pytest.raises(ConfigurationError, match=message):
        StepHandlerResult.permanent_failure_with_compensation("no", None, steps)


def test_compensations_on_the_wire() -> None:
    failure = StepHandlerResult.permanent_failure_with_compensation("no", {"reason": "because"}, ["a"])
    outcome = outcome_of(make_dispatch(), failure, worker_id="w")
    assert isinstance(outcome, Failure)
    sent = msgspec.json.decode(msgspec.json.encode(outcome))
    assert (sent["compensation_steps"], sent["error_message"]) == (["a"], "because")
    plain = outcome_of(make_dispatch(), StepHandlerResult.permanent_failure("no"), worker_id="w")
    assert "compensation_steps" not in msgspec.json.decode(msgspec.json.encode(plain))
