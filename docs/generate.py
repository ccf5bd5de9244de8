"""Fills the tables of the reference pages from the code they describe: `python docs/generate.py`.

A page holds them between `<!-- generated: NAME -->` and `<!-- end -->`; everything else in it is written by hand. With
`--check` nothing is written and the exit code is 1 where a page is not what the code says (a test runs that).
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from stepweave_orchestrator.runtime import settings
from stepweave_schemas import api
from stepweave_schemas.json_schemas import schema_file_name
from stepweave_schemas.template import dialects, model
from stepweave_schemas.template.problems import PROBLEM_CODES

DOCS: Final = Path(__file__).parent
REPOSITORY: Final = DOCS.parent
_BLOCK: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

#: Each kind of mapping of a template: its model, its keys in all dialects, and where it stands.
_PARTS: Final[tuple[tuple[str, type[BaseModel], dialects.Shape], ...]] = (
    ("template", model.TaskTemplate, dialects.TEMPLATE),
    ("step", model.StepTemplate, dialects.STEP),
    ("handler", model.HandlerSpec, dialects.HANDLER),
    ("retry", model.RetryPolicy, dialects.RETRY),
    ("environment", model.EnvironmentOverride, dialects.ENVIRONMENT),
    ("concurrency", model.Concurrency, dialects.CONCURRENCY),
    ("circuit-breaker", model.CircuitBreaker, dialects.CIRCUIT_BREAKER),
    ("batch-config", model.BatchConfig, dialects.BATCH_CONFIG),
    ("compensation", model.Compensation, dialects.COMPENSATION),
    ("signal", model.SignalWait, dialects.SIGNAL),
    ("child-task", model.ChildTask, dialects.CHILD_TASK),
    ("domain-event", model.PublishedEvent, dialects.PUBLISHED_EVENT),
    ("lifecycle", model.Lifecycle, dialects.LIFECYCLE),
)

#: What is bounded, by the constant that bounds it.
_BOUNDS: Final[tuple[tuple[str, str], ...]] = (
    ("A task's context, in bytes of JSON", "stepweave_schemas.dispatch:CONTEXT_BYTES_MAX"),
    ("A step's result with its metadata, in bytes of JSON", "stepweave_schemas.dispatch:RESULT_BYTES_MAX"),
    (
        "Results of earlier steps inside a dispatch, in bytes; the rest is asked for",
        "stepweave_schemas.dispatch:INLINE_RESULTS_BYTES_MAX",
    ),
    (
        "Results of ancestors that are no direct dependencies, inside a dispatch",
        "stepweave_schemas.dispatch:INLINE_TRANSITIVE_RESULTS_MAX",
    ),
    ("A dispatch, in bytes", "stepweave_schemas.dispatch:DISPATCH_BYTES_MAX"),
    ("An error message, in characters", "stepweave_schemas.result:ERROR_MESSAGE_CHARS_MAX"),
    (
        "A checkpoint's cursor and accumulated results, in bytes of JSON",
        "stepweave_schemas.dispatch:RESULT_BYTES_MAX",
    ),
    ("A signal's payload, in bytes of JSON", "stepweave_schemas.dispatch:RESULT_BYTES_MAX"),
    ("The cursors of one batchable step, in bytes of JSON", "stepweave_schemas.result:CURSORS_BYTES_MAX"),
    ("Batches that the Python SDK cuts for one step", "stepweave.batches:BATCHES_MAX"),
    ("Domain events of one outcome", "stepweave_schemas.result:DOMAIN_EVENTS_MAX"),
    ("The payload of a domain event, in bytes of JSON", "stepweave_schemas.result:DOMAIN_EVENT_BYTES_MAX"),
    ("The same of one outcome together, in bytes", "stepweave_schemas.result:DOMAIN_EVENTS_BYTES_MAX"),
    (
        "Domain events that one step publishes by its template",
        "stepweave_schemas.template.model:PUBLISHED_EVENTS_MAX",
    ),
    ("Names of steps in the outcome of a decision", "stepweave_schemas.result:NAMES_MAX"),
    ("Names of what a failure wants undone", "stepweave_schemas.result:COMPENSATION_STEPS_MAX"),
    ("The same together, in bytes", "stepweave_schemas.result:COMPENSATION_STEPS_BYTES_MAX"),
    (
        "Signals of a task whose ids are remembered, to tell repeats",
        "stepweave_orchestrator.core.signals:SIGNAL_IDS_MAX",
    ),
    (
        "The body of an HTTP answer that an API handler reads, in bytes",
        "stepweave.api.response:BODY_BYTES_MAX",
    ),
    ("The time-out of one HTTP call, in seconds", "stepweave.api.settings:TIMEOUT_SECONDS_MAX"),
    ("Results in one message", "stepweave_schemas.result:RESULTS_PER_MESSAGE_MAX"),
    ("A message of results, in bytes", "stepweave_schemas.result:RESULT_MESSAGE_BYTES_MAX"),
    ("Tasks in one `task.create_many`", "stepweave_schemas.api:CREATE_MANY_MAX"),
    ("Steps that one fork takes over", "stepweave_orchestrator.core.commands:REUSED_STEPS_MAX"),
    (
        "The results and cursors that one fork takes over, in bytes",
        "stepweave_orchestrator.core.commands:REUSED_BYTES_MAX",
    ),
    ("Steps that a request for a fork names", "stepweave_orchestrator.api.forking:FROM_STEPS_MAX"),
    ("A text field of a request, in characters", "stepweave_orchestrator.api.creation:TEXT_CHARS_MAX"),
    ("Tags of a task", "stepweave_orchestrator.api.creation:TAGS_MAX"),
    ("A task's priority, either way", "stepweave_orchestrator.api.creation:PRIORITY_MAX"),
    ("Requests under way in one orchestrator", "stepweave_orchestrator.api.service:CONCURRENT_REQUESTS_MAX"),
    ("Of these kept free of creates", "stepweave_orchestrator.api.service:NOT_CREATES_MIN"),
    ("Steps listed inside a task's answer", "stepweave_orchestrator.core.view:STEPS_IN_RESPONSE_MAX"),
    ("Steps that one event names", "stepweave_orchestrator.core.decide:NAMED_STEPS_MAX"),
    ("A template's text, in bytes", "stepweave_schemas.template.yaml_lines:TEMPLATE_BYTES_MAX"),
    (
        "A registered template in its canonical form, in bytes",
        "stepweave_orchestrator.runtime.template_bounds:TEMPLATE_BYTES_MAX",
    ),
    (
        "A handler's `initialization`, in bytes of JSON",
        "stepweave_orchestrator.runtime.template_bounds:INITIALIZATION_BYTES_MAX",
    ),
    ("Steps of a template", "stepweave_schemas.template.model:STEPS_MAX"),
    ("Tries of a step", "stepweave_schemas.template.model:ATTEMPTS_MAX"),
    ("A delay between two tries, in milliseconds", "stepweave_schemas.template.model:BACKOFF_MS_MAX"),
    ("A time-out, in seconds", "stepweave_schemas.template.model:TIMEOUT_SECONDS_MAX"),
    (
        "`retry_after` of a handler where the template sets no bound, in milliseconds",
        "stepweave_orchestrator.core.backoff:DEFAULT_RETRY_AFTER_MS_MAX",
    ),
    (
        "How much longer than the worker the orchestrator waits for a time-out, in milliseconds",
        "stepweave_orchestrator.core.state:TIMEOUT_GRACE_MS",
    ),
    ("A name (namespace, template, step, queue), in characters", "stepweave_schemas.template:NAME_CHARS_MAX"),
    ("A name inside a subject, in bytes", "stepweave_schemas.subjects:NAME_BYTES_MAX"),
    (
        "An interval of a schedule, in seconds",
        "stepweave_orchestrator.core.schedules.timing:EVERY_SECONDS_MAX",
    ),
    ("A schedule's jitter, in seconds", "stepweave_orchestrator.core.schedules.timing:JITTER_SECONDS_MAX"),
    (
        "A schedule's catch-up window, in seconds",
        "stepweave_orchestrator.core.schedules.timing:CATCH_UP_SECONDS_MAX",
    ),
    ("A cron expression, in characters", "stepweave_orchestrator.core.schedules.cron:CRON_CHARS_MAX"),
    ("Tasks of one bulk operation", "stepweave_orchestrator.api.bulks:TASKS_MAX"),
    ("A bulk operation's rate, in tasks each second", "stepweave_orchestrator.api.bulks:RATE_PER_SECOND_MAX"),
    (
        "Tasks that a bulk operation selects at once",
        "stepweave_orchestrator.core.bulks.state:CHUNK_TASKS_MAX",
    ),
    (
        "Refused tasks that a bulk operation itself shows",
        "stepweave_orchestrator.core.bulks.state:REFUSED_SHOWN_MAX",
    ),
    (
        "Tasks of one schedule at the same time; further firings wait",
        "stepweave_orchestrator.core.schedules.state:RUNNING_TASKS_MAX",
    ),
    (
        "Firings of a schedule decided at once; the rest follows",
        "stepweave_orchestrator.core.schedules.decide:FIRINGS_PER_DECISION_MAX",
    ),
    (
        "A firing that is late by less is not missed, whatever the window, in ms",
        "stepweave_orchestrator.core.schedules.decide:GRACE_MS",
    ),
    ("Firings of one backfill", "stepweave_orchestrator.core.schedules.commands:BACKFILL_FIRINGS_MAX"),
    (
        "Backfills of a schedule at the same time",
        "stepweave_orchestrator.core.schedules.commands:BACKFILLS_MAX",
    ),
    (
        "Tasks of one backfill at the same time",
        "stepweave_orchestrator.core.schedules.commands:BACKFILL_CONCURRENCY_MAX",
    ),
    ("Shards of an installation", "stepweave_eventstore.store:SHARD_COUNT_MAX"),
)


# -- tables --------------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def settings_table() -> str:
    """Every setting of an orchestrator, its variable, default and meaning (the `#:` comments above the fields)."""
    source = Path(settings.__file__).read_text("utf-8")
    lines = source.splitlines()
    (body,) = [
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    ]
    rows: list[list[str]] = []
    meaning = ""
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        number = node.lineno - 2
        comment: list[str] = []
        while lines[number].strip().startswith("#:"):
            comment.insert(0, lines[number].strip().removeprefix("#:").strip())
            number -= 1
        # A comment may speak of the fields that follow it too.
        meaning = " ".join(comment) or ("as above" if meaning else "")
        name = node.target.id
        own = {"database_url": "`DATABASE_URL`, ", "nats_url": "`NATS_URL`, "}.get(name, "")
        default = "required" if node.value is None else _python(node.value)
        rows.append([f"{own}`STEPWEAVE_{name.upper()}`", default, _SETTING_TEXTS.get(name, meaning)])
        meaning = _SETTING_TEXTS.get(name, meaning)
    return table(("variable", "default", "meaning"), rows)


_REFUSED: Final = "creates are refused beyond it."
_REFUSED_BEYOND: Final = {
    "creates_under_way_max": f"Creates that are not answered yet; {_REFUSED}",
    "requests_waiting_max": f"Creates that nobody has looked at; {_REFUSED}",
    "round_trip_ms_max": f"How long NATS takes to answer, as long as requests wait on their way in; {_REFUSED}",
    "create_age_ms_max": f"The age of the oldest create that is being decided and committed; {_REFUSED}",
    "commit_ms_max": f"How long the commit under way takes; {_REFUSED}",
    "projections_behind_max": f"Tasks that changed since their rows in the lists were written; {_REFUSED}",
    "results_waiting_max": f"Messages of workers that wait to be taken, of all shards; {_REFUSED}",
    "namespace_backlog_steps_max": f"Steps of one namespace that wait for its workers, run, or are held before a gate; {_REFUSED}",
    "namespace_backlog_bytes_max": f"The bytes of their dispatches; {_REFUSED}",
    "memory_bytes_max": f"Resident memory of the orchestrator; {_REFUSED} "
    "Default: 80 % of its container's, else half of the machine's",
    "jetstream_bytes_max": f"What JetStream stores, feeds included; {_REFUSED} "
    "They are at 90 % of its account's limit too, where that has one",
    "database_bytes_max": f"The size of the database; {_REFUSED} What is left on its disk cannot be asked for",
    "disk_path": "A folder on the disk that the servers write to, where the orchestrator can see it; `stepweave dev` "
    "names that of its embedded servers",
    "disk_free_bytes_min": f"What has to stay free on that disk; {_REFUSED.replace('beyond', 'below')} "
    "Default: 512 MiB, or a fifth of a small disk",
    "admission_resume_percent": "Creates are taken again below so much of the bound that was reached.",
    "retry_after_seconds_max": "The longest `retry_after_seconds` that a refused create is told.",
}
_SETTING_TEXTS: Final = {
    "database_url": "PostgreSQL: `postgresql://user:password@host:5432/database`",
    "nats_url": "NATS with JetStream",
    "owner": "Unique among live processes; it names the owner of shards. Default: host, process and a random part",
    "signals_by_namespace": 'As `signals`, for single namespaces: JSON such as `{"payments": "all"}`',
    **_REFUSED_BEYOND,
    "decision_depth_max": "Decisions above each other; one beyond it fails.",
    "decision_steps_max": "Steps that one decision names; one that names more fails.",
    "batch_workers_max": "Batches of one batchable step; one that cuts more fails.",
    "child_depth_max": "Tasks above each other; a step that starts one beyond it fails.",
    "signals_kept_max": "Signals of one task that no step has taken yet; further ones are refused.",
    "signals_kept_bytes_max": "Their payloads together.",
}


def _python(node: ast.expr) -> str:
    value = eval(compile(ast.Expression(node), "default", "eval"), vars(settings))
    if value in ("", None) or value == {}:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


def part_table(title: str) -> str:
    """The keys of one kind of mapping in a template: aliases, default, meaning."""
    ((_, kind, shape),) = [part for part in _PARTS if part[0] == title]
    rows = []
    for name, field in kind.model_fields.items():
        aliases = sorted(key for key, entry in shape.keys.items() if entry.target == (name,) and key != name)
        if title == "retry":
            aliases += [
                f"{key} (of the step)"
                for key, entry in dialects.STEP.keys.items()
                if entry.target == ("retry", name)
            ]
        if title == "handler":
            aliases += [
                f"{key} (of the step)"
                for key, entry in dialects.STEP.keys.items()
                if entry.target == ("handler", name)
            ]
        if field.is_required():
            default = "required"
        else:
            default = _default(field.get_default(call_default_factory=True))
        meaning = field.description or _OVERRIDE_TEXTS.get(name, "as in the template")
        rows.append(
            [
                f"`{name}`",
                ", ".join(f"`{key}`".replace(" (of the step)`", "` (of the step)") for key in aliases),
                default,
                meaning,
            ]
        )
    return table(("key", "also", "default", "meaning"), rows)


_OVERRIDE_TEXTS: Final = {"retry": "How often it is tried."}


def _default(value: Any) -> str:
    if value is PydanticUndefined or value is None or value in ("", (), {}):
        return "–"
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{json.dumps(value)}`" if isinstance(value, bool | float) else f"`{value}`"


def problem_table() -> str:
    """Every code that a check of a template can give."""
    return table(("code", "says"), ([f"`{code}`", text] for code, text in PROBLEM_CODES.items()))


def operations_table() -> str:
    """The operations of the API with their messages."""
    rows = []
    for operation in api.OPERATIONS:
        links = [
            f"[{side}](../../schemas/json/{schema_file_name(f'api.{operation}.{side}')})"
            for side in ("request", "reply")
        ]
        rows.append([f"`{api.operation_subject(operation)}`", _OPERATION_TEXTS[operation], ", ".join(links)])
    return table(("subject", "what", "schemas"), rows)


_OPERATION_TEXTS: Final = {
    "task.create": "Begin a task; answered when its first event is committed",
    "task.create_many": "Begin several; each is accepted or refused on its own",
    "task.get": "A task with its steps, from its actor",
    "task.list": "A page of tasks, newest first, from the projection",
    "task.cancel": "End a task now",
    "task.pause": "Begin nothing any more until the task is resumed",
    "task.resume": "Go on with a paused task",
    "task.retry": "Try every step again that has failed for good",
    "task.give_up": "End a blocked task in `error`",
    "task.resolve": "Say that what a task was for is done: it ends in `resolved_manually`",
    "step.update": "Reset, resolve, complete or skip a step, by `action_type`",
    "task.signal": "Tell a task something that one of its steps waits for, or will",
    "task.fork": "Begin a task that reuses what another one has come to",
    "task.results": "What finished steps returned, in pages",
    "task.events": "A task's history, in pages",
    "task.explain": "Why a task is where it is, in sentences, with the commands that would move it",
    "gate.list": "A page of slots, circuits or rates, from the projection",
    "gate.get": "Who holds a gate and who waits, from its actor",
    "circuit.open": "Hold the steps that need a service for a while",
    "circuit.close": "Let the steps that need a service go on",
    "dlq.list": "A page of dead letters, newest first, from the projection",
    "dlq.get": "One task's dead letters, and the task as it was when one of them began",
    "dlq.stats": "How many dead letters there are of which kind, and how old",
    "dlq.investigation_queue": "Open dead letters, the most urgent first",
    "dlq.staleness": "What stands still now, steps among it whose handler nobody serves",
    "dlq.update": "Say what came of a dead letter",
    "template.register": "Make a template version known; the same content again changes nothing",
    "template.validate": "Every problem of a template; stores nothing",
    "template.get": "A version; without one the highest that is no prerelease",
    "template.list": "All versions of all templates, from the projection",
    "schedule.create": "Begin a schedule, or with `replace` give it other settings; the same again changes nothing",
    "schedule.get": "A schedule with its next ten firings and its last runs, from its actor",
    "schedule.events": "What has happened to a schedule, the newest first pages; also to a deleted one",
    "schedule.list": "A page of schedules, by namespace and name, from the projection",
    "schedule.pause": "Fire no more until it is resumed",
    "schedule.resume": "Fire again, from now on",
    "schedule.trigger": "Fire once now",
    "schedule.backfill": "Make up for the firings of a range in the past, or only count them",
    "schedule.delete": "End a schedule; its tasks go on",
    "schedule.preview": "When a timing would fire; stores nothing",
    "bulk.start": "An action on every task that a filter finds, or with `dry_run` only what it would find",
    "bulk.get": "How far a bulk operation is, and the first tasks that refused, from its actor",
    "bulk.list": "A page of bulk operations, from the projection",
    "bulk.tasks": "What became of each task of a bulk operation, page by page, from its events",
    "bulk.cancel": "Stop a bulk operation: it selects no more tasks",
}


def errors_table() -> str:
    """The codes of refusals, their HTTP statuses, and the SDK's exceptions."""
    from stepweave import api_errors

    rows = [
        [
            f"`{code}`",
            str(status),
            f"`{api_errors._BY_CODE[code].__name__}`",
            "yes" if code in api_errors.RETRYABLE_CODES else "no",
        ]
        for code, status in api.ApiError.STATUS.items()
    ]
    return table(("code", "status", "exception in Python", "may be sent again"), rows)


def bounds_table() -> str:
    """What is bounded, and where the bound is."""
    rows = []
    for what, place in _BOUNDS:
        module, _, name = place.partition(":")
        rows.append([what, f"{getattr(importlib.import_module(module), name):,.15g}", f"`{name}`"])
    return table(("what", "at most", "constant"), rows)


_TABLES: Final[dict[str, Callable[[], str]]] = {
    "settings": settings_table,
    "problems": problem_table,
    "operations": operations_table,
    "errors": errors_table,
    "bounds": bounds_table,
    **{f"keys-{title}": partial(part_table, title) for title, _, _ in _PARTS},
}


# -- pages ---------------------------------------------------------------------------------------


def filled(page: str) -> str:
    """A page with its tables as the code says; raises `KeyError` for a table that there is not."""
    return _BLOCK.sub(lambda match: match[1] + _TABLES[match[2]]() + match[3], page)


def pages() -> list[Path]:
    """The pages with generated tables."""
    return [page for page in sorted(DOCS.rglob("*.md")) if _BLOCK.search(page.read_text("utf-8"))]


def main() -> int:
    """Write the pages, or with `--check` say which are out of date."""
    check = "--check" in sys.argv[1:]
    stale = []
    for page in pages():
        text = page.read_text("utf-8")
        wanted = filled(text)
        if text != wanted:
            stale.append(page.relative_to(REPOSITORY))
            if not check:
                page.write_text(wanted, "utf-8")
    for page in stale:
        print(f"{page}: {'out of date, run `python docs/generate.py`' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
