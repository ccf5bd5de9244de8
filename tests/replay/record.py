"""Records histories for `test_replay.py`: `python -m tests.replay.record`, from the project's folder.

Each story of `STORIES` that has no file yet is played through the core and written to `recorded/`, with the state that
the core of today ends in; read it before you commit it. A file that exists is never written again: it stands for what
released versions have stored. To record another case, add a story, here or to one of the modules `…_stories.py`.
The same goes for each input of an example (`example_histories.py`), which is run with its own handlers.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec
from tests.unit.core.scenario import (
    CORRELATION_ID,
    T0_MS,
    TASK_ID,
    Scenario,
    blocked,
    cancel,
    cancelled,
    completed,
    enqueued,
    fail,
    fail_for_good,
    failed,
    lose,
    refused,
    release,
    released,
    retry,
    start,
    started,
    succeed,
    task_completed,
    task_failed,
    task_started,
    wake,
)
from tests.unit.core.templates import AT_ONCE, EVERY_SECOND, step

from stepweave_schemas import events
from stepweave_schemas.codec import encode
from stepweave_schemas.envelope import decode_envelope, envelope_bytes
from stepweave_schemas.template import TaskTemplate

from .domain_event_stories import DOMAIN_EVENT_STORIES
from .dynamic_stories import DYNAMIC_STORIES
from .example_histories import example_runs, histories_of
from .fork_stories import FORK_STORIES
from .gate_stories import GATE_STORIES
from .history import (
    FOLDER,
    SUMS,
    History,
    hash_of,
    known_hashes,
    name_of,
    replay,
    statuses,
    summary,
    write,
)
from .operator_stories import OPERATOR_STORIES
from .saga_stories import SAGA_STORIES
from .stories import Stories, begun, recorder
from .stuck_stories import STUCK_STORIES
from .waiting_stories import WAITING_STORIES

#: By name: what it is about, the template, and the story.
STORIES: Final[Stories] = {}
recorded: Final = recorder(STORIES)


CHECKOUT: Final = ("validate_cart", "charge: validate_cart", "ship: charge")
DIAMOND: Final = (
    "create_account",
    "billing: create_account",
    "settings: create_account",
    "welcome: billing settings",
)


@recorded("chain", "three steps after each other succeed; one announces its start", *CHECKOUT)
def _chain(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("validate_cart"))
        .later(12)
        .when(succeed("validate_cart", result={"total": 99.5}, started_at_ms=T0_MS + 3, duration_ms=7))
        .then(completed("validate_cart"), enqueued("charge"))
        .later(40)
        .when(start("charge", worker_id="worker-2"))
        .then(started("charge"))
        .later(900)
        .when(
            succeed(
                "charge", result={"id": "ch_1"}, worker_id="worker-2", metadata=msgspec.Raw(b'{"ms":900}')
            )
        )
        .then(completed("charge"), enqueued("ship"))
        .later(5)
        .when(succeed("ship", result=None))
        .then(completed("ship"), task_completed())
    )


@recorded("diamond", "two branches run beside each other; the join waits for both", *DIAMOND)
def _diamond(made: TaskTemplate) -> Scenario:
    return (
        begun(
            made,
            enqueued("create_account"),
            priority=5,
            parent_correlation_id="parent",
            traceparent="00-1-2-01",
        )
        .later(10)
        .when(succeed("create_account", result={"user": 7}))
        .then(completed("create_account"), enqueued("billing"), enqueued("settings"))
        .later(10)
        .when(succeed("settings", result=["dark"]))
        .then(completed("settings"))
        .later(10)
        .when(succeed("billing", result="é"))
        .then(completed("billing"), enqueued("welcome"))
        .later(10)
        .when(succeed("welcome", result={}))
        .then(completed("welcome"), task_completed())
    )


@recorded(
    "retries_with_backoff",
    "the formula with jitter, then the handler's own wish, then at once; the fourth try succeeds",
    step("pay", retry={"max_attempts": 5, "backoff": "exponential", "backoff_base_ms": 500, "jitter": 0.2}),
    "ship: pay",
)
def _retries(made: TaskTemplate) -> Scenario:
    scenario = begun(made, enqueued("pay")).later(20)
    scenario.when(fail("pay", error_type="retryable_error", error_code="E503", error_message="busy")).then(
        retry("pay")
    )
    scenario.later(scenario.last(events.StepRetryScheduled).delay_ms).when(wake()).then(enqueued("pay", 2))
    scenario.later(20).when(fail("pay", retry_after_ms=7_500, metadata=msgspec.Raw(b'{"status":429}')))
    scenario.then(retry("pay", 2, delay_ms=7_500)).later(7_500).when(wake()).then(enqueued("pay", 3))
    scenario.later(20).when(fail("pay", retry_after_ms=0)).then(retry("pay", 3), enqueued("pay", 4))
    scenario.when(fail("pay", 3)).then_rejected("DUPLICATE")
    scenario.later(20).when(succeed("pay", result={"paid": True})).then(completed("pay", 4), enqueued("ship"))
    return scenario.later(20).when(succeed("ship")).then(completed("ship"), task_completed())


@recorded(
    "permanent_failure_blocks",
    "one branch fails for good, the other goes on to its end; then the task is blocked",
    *DIAMOND,
    "log",
    "report: log",
)
def _permanent(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("create_account"), enqueued("log"))
        .later(10)
        .when(fail_for_good("create_account", error_code="TAKEN", error_message="the name is taken"))
        .then(failed("create_account"))
        .later(10)
        .when(succeed("log", result=1))
        .then(completed("log"), enqueued("report"))
        .later(10)
        .when(succeed("report", result=2))
        .then(completed("report"), blocked("create_account", unreachable_steps_count=3))
        .later(10)
        .when(succeed("create_account"))
        .then(refused("create_account", refusal="step_finished"))
    )


@recorded(
    "on_failure_fail",
    "the tries are used up while a sibling runs; it is awaited, then the task ends in error",
    step("charge", retry={**EVERY_SECOND, "max_attempts": 2}),
    "reserve",
    "ship: charge reserve",
    on_failure="fail",
)
def _fails(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("charge"), enqueued("reserve"))
        .later(10)
        .when(fail("charge", error_message="declined", error_code="CARD"))
        .then(retry("charge"))
        .later(1_000)
        .when(wake())
        .then(enqueued("charge", 2))
        .later(10)
        .when(fail("charge", error_message="declined again", error_code="CARD"))
        .then(failed("charge", 2, failure_reason="attempts_exhausted"))
        .later(10)
        .when(succeed("reserve", result={"shelf": 3}))
        .then(completed("reserve"), task_failed("charge"))
    )


@recorded(
    "not_retryable",
    "the template forbids a second try",
    step("charge", retry={"retryable": False}),
)
def _not_retryable(made: TaskTemplate) -> Scenario:
    scenario = begun(made, enqueued("charge")).later(10).when(fail("charge"))
    return scenario.then(failed("charge", failure_reason="not_retryable"), blocked("charge"))


@recorded(
    "cancel_with_late_result",
    "cancelled while steps run and wait; what comes in afterwards is refused, once",
    *DIAMOND,
    "audit",
)
def _cancelled(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("create_account"), enqueued("audit"))
        .later(10)
        .when(fail("audit"))
        .then(retry("audit"))
        .later(10)
        .when(succeed("create_account", result={"user": 7}))
        .then(completed("create_account"), enqueued("billing"), enqueued("settings"))
        .later(10)
        .when(start("billing"))
        .then(started("billing"))
        .later(10)
        .when(cancel("changed my mind", "ada"))
        .then(cancelled("billing", "settings"))
        .later(10)
        .when(succeed("billing", result={"plan": "free"}))
        .then(refused("billing", refusal="task_finished"))
        .when(succeed("billing"))
        .then_rejected("STALE")
        .when(fail("audit"))
        .then_rejected("DUPLICATE")
        .later(10)
        .when(fail("settings"))
        .then(refused("settings", refusal="task_finished", outcome="failure"))
    )


@recorded("delayed_start", "nothing is given out before the moment that was asked for", *CHECKOUT)
def _delayed(made: TaskTemplate) -> Scenario:
    return (
        begun(made, start_at_ms=T0_MS + 60_000)
        .later(60_000)
        .when(wake())
        .then(task_started(), enqueued("validate_cart"))
        .later(10)
        .when(succeed("validate_cart", result=1))
        .then(completed("validate_cart"), enqueued("charge"))
    )


@recorded("delayed_and_pending", "the moment has not come yet", *CHECKOUT)
def _pending(made: TaskTemplate) -> Scenario:
    return begun(made, start_at_ms=T0_MS + 60_000)


@recorded(
    "worker_lost",
    "two workers are lost; the first one comes back too late with a result",
    step("pack", retry={**EVERY_SECOND, "max_attempts": 3}),
    "ship: pack",
)
def _lost(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("pack"))
        .later(30_000)
        .when(lose("pack", worker_id="worker-2"))
        .then(retry("pack", delay_source="at_once"), enqueued("pack", 2))
        .later(50)
        .when(start("pack", worker_id="worker-2"))
        .then(started("pack", 2))
        .later(30_000)
        .when(lose("pack", worker_id="worker-3"))
        .then(retry("pack", 2), enqueued("pack", 3))
        .later(10)
        .when(succeed("pack", 1, result="too late"))
        .then(refused("pack", 1, refusal="stale_attempt"))
        .when(succeed("pack", 1))
        .then_rejected("STALE")
        .later(10)
        .when(succeed("pack", result="in time"))
        .then(completed("pack", 3), enqueued("ship"))
    )


@recorded(
    "timeout",
    "a worker calls the time-out itself; at the next try nobody does, so the orchestrator does; the last one fails",
    step("render", retry={**EVERY_SECOND, "max_attempts": 3}, timeout_seconds=2.5),
    "publish: render",
)
def _timeout(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("render"))
        .later(10)
        .when(start("render"))
        .then(started("render"))
        .later(2_500)
        .when(
            fail("render", error_type="timeout", error_code="STEP_TIMEOUT", error_message="took over 2.5 s")
        )
        .then(retry("render", settled_by="failure"))
        .later(1_000)
        .when(wake())
        .then(enqueued("render", 2))
        .when(start("render", worker_id="worker-2"))
        .then(started("render", 2))
        .later(7_500)
        .when(wake())
        .then(retry("render", 2, settled_by="timeout"))
        .later(10)
        .when(succeed("render", 2))
        .then(refused("render", 2, refusal="stale_attempt"))
        .later(990)
        .when(wake())
        .then(enqueued("render", 3))
        .when(start("render"))
        .then(started("render", 3))
        .later(7_500)
        .when(wake())
        .then(failed("render", 3, settled_by="timeout"), blocked("render"))
    )


@recorded(
    "released",
    "tries are handed back, before and after their start; they keep their number and get new tokens",
    step("pack", retry={**AT_ONCE, "max_attempts": 2}, timeout_seconds=60.0),
)
def _released(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("pack"))
        .later(10)
        .when(release("pack"))
        .then(released("pack"), enqueued("pack"))
        .later(10)
        .when(start("pack", worker_id="worker-2"))
        .then(started("pack"))
        .later(10)
        .when(release("pack", worker_id="worker-2"))
        .then(released("pack"), enqueued("pack"))
        .later(10)
        .when(fail("pack"))
        .then(retry("pack"), enqueued("pack", 2))
        .later(10)
        .when(release("pack"))
        .then(released("pack", 2), enqueued("pack", 2))
        .when(succeed("pack", 2, 0))
        .then_rejected("STALE")
        .later(10)
        .when(succeed("pack", result={"boxes": 2}))
        .then(completed("pack", 2), task_completed())
    )


@recorded(
    "under_way",
    "steps in every state at once: done, given out, running, waiting, failed, pending",
    step("load", handler={"callable": "load", "initialization": {"rows": 10}}),
    step("clean: load", timeout_seconds=30.0, queue="slow"),
    "count: load",
    "check: load",
    "notify: load",
    "join: clean count load",
    "done: join check",
)
def _under_way(made: TaskTemplate) -> Scenario:
    return (
        begun(made, enqueued("load"))
        .later(10)
        .when(succeed("load", result={"rows": [1, 2, 3]}))
        .then(completed("load"), enqueued("clean"), enqueued("count"), enqueued("check"), enqueued("notify"))
        .later(10)
        .when(start("clean", worker_id="worker-2"))
        .then(started("clean"))
        .later(10)
        .when(fail("count"))
        .then(retry("count"))
        .later(10)
        .when(fail_for_good("check", error_type="validation_error", error_message="row 2 is bad"))
        .then(failed("check"))
    )


STORIES.update(
    {
        **DYNAMIC_STORIES,
        **DOMAIN_EVENT_STORIES,
        **FORK_STORIES,
        **SAGA_STORIES,
        **WAITING_STORIES,
        **GATE_STORIES,
        **STUCK_STORIES,
        **OPERATOR_STORIES,
    }
)


# -- writing -------------------------------------------------------------------------------------


def history_of(name: str) -> History:
    """A story, played through the core as it is now."""
    about, made, story = STORIES[name]
    scenario = story(made)
    packed = [
        envelope_bytes(
            shard=0,
            position=version,
            task_id=TASK_ID,
            version=version,
            type=event.TYPE,
            schema_version=events.SCHEMA_VERSION,
            recorded_at_ms=at_ms,
            correlation_id=CORRELATION_ID,
            causation_id=f"story:{name}",
            actor="story",
            data=encode(event),
        )
        for version, (event, at_ms) in enumerate(scenario.history, start=1)
    ]
    states: list[list[str]] = []
    for event, state in replay([decode_envelope(each) for each in packed], scenario.plan):
        states.append(statuses(event, state))
    return History(
        name=name,
        story=about,
        template=made.canonical(),
        template_hash=made.content_hash(),
        events=[msgspec.Raw(each) for each in packed],
        states=states,
        expected=summary(state),
    )


def main() -> int:
    """Write what is missing; returns the exit code."""
    FOLDER.mkdir(exist_ok=True)
    sums = known_hashes()
    paths = {name: FOLDER / f"{name}.json" for name in STORIES}
    missing = {path: history_of(name) for name, path in paths.items() if not path.exists()}
    for example in example_runs():
        if not example.path.exists():
            missing.update(histories_of(example))
    for path, history in missing.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, history)
        sums[name_of(path)] = hash_of(path)
        print(f"recorded {name_of(path)}")
    SUMS.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
