"""What a task *is*: the pure core.

A task is an actor. Its whole behaviour is two functions without I/O, clock, randomness or logging:

- `decide(state, command, moment)` looks at the state and a command and answers with the events that follow,
  or with a `Rejection` that says why nothing follows. It never changes the state.
- `evolve(state, event, recorded_at_ms)` applies one event. It cannot refuse and it cannot decide.

Time, ids and random bits come in with the command (`Moment`) and are frozen in the events, so that replaying
the events gives the same state on any machine, for ever.

What the actor wants done is in its events: `step.enqueued` is the order to dispatch, a retry's `retry_at_ms`
is the order to wake. Recovery after a crash is therefore nothing but publishing the events again.

The states of a step, and the events that move it:

    pending ──step.enqueued──▶ enqueued ──step.started──▶ in_progress ──step.completed──▶ complete
                                  │  ▲                        │
                                  │  └────step.enqueued────── waiting_for_retry ◀──step.retry_scheduled──┤
                                  └──────────(short steps skip step.started)───────────┴──step.failed──▶ error
    any unfinished step ──task.cancelled──▶ cancelled

Cost: a finished step costs O(its dependents); nothing scans all steps on the way.

| file | concept |
|---|---|
| `plan` | a template version compiled for running: indexes, dependents, ancestors |
| `state` | what is known about a task and its steps |
| `commands`, `rejection` | what may be asked of a task, and how a refusal looks |
| `decide`, `evolve` | the two functions |
| `backoff` | the delay before the next try |
| `dispatching` | the message for the workers, from the state |
| `view` | the task as callers see it |
| `template_stream` | the same pattern for a template's versions |
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
