"""What a task *is*: the pure core.

A task is an actor. Its whole behaviour is two functions without I/O, clock, randomness or logging:

- `decide(state, command, moment)` looks at the state and a command and answers with the events that follow,
  or with a `Rejection` that says why nothing follows. It never changes the state.
- `evolve(state, event, recorded_at_ms)` applies one event. It cannot refuse and it cannot decide.

Time, ids and random bits come in with the command (`Moment`) and are frozen in the events, so that replaying
the events gives the same state on any machine, for ever.

What the actor wants done is in its events: `step.enqueued` is the order to dispatch, a retry's `retry_at_ms`
is the order to wake. Recovery after a crash is therefore nothing but publishing the events again.

The states of a step that a worker runs, and the events that move it:

    pending ──step.enqueued──▶ enqueued ──step.started──▶ in_progress ──step.completed──▶ complete
                                  │  ▲                        │
                                  │  └────step.enqueued────── waiting_for_retry ◀──step.retry_scheduled──┤
                                  └──────────(short steps skip step.started)───────────┴──step.failed──▶ error
    any unfinished step ──task.cancelled──▶ cancelled
    complete ──(its compensation begins)──▶ compensating ──compensation.completed──▶ compensated

A step that waits for a signal goes from pending to waiting_for_signal (`signal.awaited`), one that starts another task
to in_progress (`child.requested`); both end as any other. Steps behind a decision or a batch come to exist with
`decision.routed` and `batch.created`, and never do where these exclude them (`branches`).

Cost: a finished step costs O(its dependents); nothing scans all steps on the way. Only a decision looks at everything
behind it, once.

| file | concept |
|---|---|
| `plan` | a template version compiled for running: indexes, dependents, ancestors |
| `state` | what is known about a task and its steps |
| `commands`, `rejection` | what may be asked of a task, and how a refusal looks |
| `decide`, `evolve` | the two functions; `outcomes` holds what follows from what workers report |
| `bookkeeping`, `by_hand` | how a step changes its status and what is counted; the events of operators |
| `operator_commands`, `operators`, `allowed` | what operators may ask of a task and its steps, and why not |
| `beginning` | what begins with a task |
| `turn` | one decision in the making, where one event follows from another; `undoing` is its part about compensations |
| `tries` | how a try is given out, and how it fails |
| `branches` | which steps exist: what follows from a decision |
| `saga` | the order in which a task is undone |
| `signals`, `children` | what comes from outside, and from other tasks |
| `domain_events` | what a try publishes besides its outcome; `checks` says what values have to fit |
| `backoff` | the delay before the next try |
| `dispatching` | the message for the workers, from the state |
| `view` | the task as callers see it |
| `template_stream` | the same pattern for a template's versions |
| `schedules` | the same pattern for what starts tasks by the clock |
| `snapshot` | a state as bytes and back |
"""

from .commands import CancelTask, CreateTask, Moment, Wake
from .decide import decide
from .dispatching import build_dispatch
from .evolve import evolve
from .plan import Plan, compile_plan
from .rejection import Rejection
from .state import TERMINAL_STATUSES, StepState, TaskState, TaskStatus

__all__ = [
    "TERMINAL_STATUSES",
    "CancelTask",
    "CreateTask",
    "Moment",
    "Plan",
    "Rejection",
    "StepState",
    "TaskState",
    "TaskStatus",
    "Wake",
    "build_dispatch",
    "compile_plan",
    "decide",
    "evolve",
]
