"""Every error becomes an exit code and a sentence that says what to do."""

from __future__ import annotations

import importlib

import pytest

from stepweave.api_errors import api_error
from stepweave.messaging import ConnectFailed
from stepweave_eventstore.migrate import MigrationsPending
from stepweave_eventstore.store import EventStoreError, StoreUnavailable
from stepweave_orchestrator.cli.errors import KNOWN_ERRORS, CommandError, ExitCode, explain
from stepweave_orchestrator.embedded import EmbeddedFailure, EmbeddedServerError


@pytest.mark.parametrize("name", KNOWN_ERRORS)
def test_each_known_error_is_an_exception_that_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    assert issubclass(found, BaseException)
    assert f"{found.__module__}.{found.__qualname__}" == name


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (api_error({"code": "NOT_FOUND", "message": "there is no task x"}), 3, "`stepweave task list`"),
        (api_error({"code": "CONFLICT", "message": "it has ended"}), 4, "it has ended"),
        (api_error({"code": "BAD_REQUEST", "message": "page counts from 1"}), 2, "page counts"),
        (api_error({"code": "INVALID_UUID", "message": "'x' is no UUID"}), 2, "`stepweave task list`"),
        (api_error({"code": "BACKPRESSURE", "message": "too much"}), 5, "`stepweave orchestrator status`"),
        (api_error({"code": "SERVICE_UNAVAILABLE", "message": "nobody answers"}), 5, "stepweave dev"),
        (
            api_error({"code": "SERVICE_UNAVAILABLE", "message": "the event store does not answer"}),
            5,
            "the event store does not answer; `stepweave doctor` tells",
        ),
        (
            api_error({"code": "NOT_FOUND", "message": "there is no dead letter x"}),
            3,
            "x; `stepweave dlq list --all` shows",
        ),
        (
            api_error(
                {"code": "NOT_FOUND", "message": "there is no such circuit: nothing of it has failed yet"}
            ),
            3,
            "yet; `stepweave circuit list` shows",
        ),
        (
            api_error({"code": "NOT_FOUND", "message": "the task has no step 'x'"}),
            3,
            "'x'; `stepweave task get TASK` shows",
        ),
        (
            api_error({"code": "INVALID_UUID", "message": "dlq_entry_uuid: 'x' is no UUID"}),
            2,
            "copy one from `stepweave dlq list`",
        ),
        (api_error({"code": "TIMEOUT", "message": "no answer"}), 5, "stepweave doctor"),
        (api_error({"code": "INTERNAL_ERROR", "message": "oops"}), 1, "log"),
        (ConnectFailed("no NATS server answers; start one"), 5, "start one"),
        (StoreUnavailable("the database cannot be reached"), 5, "DATABASE_URL"),
        (EventStoreError("the database refused"), 1, "refused"),
        (MigrationsPending(["0001"]), 5, "`stepweave migrate`"),
        (ModuleNotFoundError("no", name="asyncpg"), 5, "pip install 'stepweave[server]'"),
        (ModuleNotFoundError("no", name="jsonschema_rs"), 5, "pip install 'stepweave[server]'"),
        (ModuleNotFoundError("no", name="psutil"), 5, "pip install 'stepweave[dev]'"),
        (
            EmbeddedServerError("the disk is full", failure=EmbeddedFailure.DISK_FULL, server="NATS"),
            5,
            "disk is full",
        ),
        (CommandError("say more", ExitCode.USAGE), 2, "say more"),
        (PermissionError(13, "Permission denied", "/x"), 1, "rights"),
        (ZeroDivisionError("division by zero"), 1, "STEPWEAVE_DEBUG=1"),
    ],
)
def test_errors(error: BaseException, code: int, text: str) -> None:
    found, sentence = explain(error)
    assert found == code
    assert text in sentence
    assert "Traceback" not in sentence


def test_violations_are_listed_each_on_a_line() -> None:
    violations = [{"pointer": f"/{n}", "message": "is no number"} for n in range(60)]
    error = api_error(
        {"code": "VALIDATION_FAILED", "message": "the context does not fit: /0: …", "violations": violations}
    )
    code, text = explain(error)
    lines = text.splitlines()
    assert code is ExitCode.REFUSED
    assert lines[:2] == ["the context does not fit:", "  /0: is no number"]
    assert lines[-1] == "  … and 10 more"


def test_problems_name_file_and_line() -> None:
    problem = {
        "source": "t.yaml",
        "line": 7,
        "code": "UNKNOWN_KEY",
        "path": "steps[0].retries",
        "message": "no such key",
        "hint": "did you mean 'retry'?",
        "severity": "error",
    }
    error = api_error({"code": "VALIDATION_FAILED", "message": "1 error(s): …", "problems": [problem]})
    assert "t.yaml:7: UNKNOWN_KEY steps[0].retries: no such key; did you mean 'retry'?" in explain(error)[1]


def test_an_advice_is_not_given_twice() -> None:
    error = api_error(
        {"code": "NOT_FOUND", "message": "none; register it with `stepweave template register FILE`"}
    )
    assert explain(error)[1] == "none; register it with `stepweave template register FILE`"
