"""What begins with a task."""

from __future__ import annotations

from stepweave_schemas import events

from .commands import Moment
from .holding import task_held
from .state import TaskState
from .tries import enqueued
from .turn import Turn


def begin(state: TaskState, moment: Moment) -> list[events.Event]:
    """The task asks for a slot, where it needs one and has none, or its first steps begin."""
    held = None if state.passes else task_held(state, moment)
    if held is not None:
        return [held]
    plan = state.the_plan
    # An operator has settled steps already, or the steps that a fork reuses are done.
    under_way = state.stepped_in or state.forked_from is not None
    if plan.plain and moment.rate_per_second is None and not under_way:
        return [
            enqueued(plan.steps[number].name, state.steps[number].uuid, 1, moment) for number in plan.roots
        ]
    turn = Turn(state, moment)
    turn.held = False
    turn.phase = "steps_in_process"
    if under_way:
        turn.begin_ready()
    else:
        turn.begin_roots()
    return turn.finish()
