"""What the actors of a shard answer, as JSON."""

from __future__ import annotations

import msgspec

from stepweave_orchestrator.core.dispatching import all_result_numbers
from stepweave_orchestrator.core.explanation import explained, number_named
from stepweave_orchestrator.core.gates.standing import standing
from stepweave_orchestrator.core.gates.view import gate_reply
from stepweave_orchestrator.core.operators import step_number
from stepweave_orchestrator.core.signals import signal_taker
from stepweave_orchestrator.core.view import step_summary, task_response
from stepweave_schemas import api
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode
from stepweave_schemas.dispatch import INLINE_RESULTS_BYTES_MAX
from stepweave_schemas.mint import now_ms

from .actors import Actor, StreamActor, TaskActor
from .forks import Forking, fork_reply
from .gate_kinds import gate_item
from .letter_rows import letter_rows
from .owner_requests import Results

#: A task whose steps do not fit into so many bytes is answered without them (`task.results`, `task.events` have pages).
TASK_BYTES_MAX = 900 * 1024
#: Of any answer, with room for what NATS and clients put around it.
ANSWER_BYTES_MAX = 960 * 1024
_NOT_A_GATE = encode(ApiError("NOT_FOUND", "the id is not that of a gate").body())
_NOT_A_TASK = encode(ApiError("NOT_FOUND", "the id is not that of a task").body())


def answer_task(actor: Actor) -> bytes:
    """The task (`TaskResponse`); without its steps where they do not fit into `TASK_BYTES_MAX`."""
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    answer = encode(task_response(actor.state))
    if len(answer) > TASK_BYTES_MAX:
        return encode(task_response(actor.state, with_steps=False))
    return answer


def answer_letters(actor: Actor) -> bytes:
    """The task's dead letters as the projection has them."""
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    return encode(letter_rows(actor.state, actor.shard))


def answer_nothing(actor: Actor) -> bytes:
    """Null where there is such a task."""
    return b"null" if isinstance(actor, TaskActor) else _NOT_A_TASK


def answer_fork(actor: Actor, forking: Forking | None, task: bytes, replayed: bool) -> bytes:
    """`ForkReply` around the task's JSON; the task without its steps where both do not fit into an answer."""
    assert isinstance(actor, TaskActor)
    past = None if replayed or forking is None else forking.past
    reply = encode(fork_reply(actor.state, past, replayed=replayed))
    rest = reply.removeprefix(b'{"task":null')
    if len(task) + len(rest) > ANSWER_BYTES_MAX:
        task = encode(task_response(actor.state, with_steps=False))
    return b'{"task":%b%b' % (task, rest)


def answer_step(actor: Actor, step: str) -> bytes:
    """A step, and its task without the steps."""
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    state = actor.state
    return encode(
        api.UpdateStepReply(
            task=task_response(state, with_steps=False), step=step_summary(state, step_number(state, step))
        )
    )


def answer_signal_step(actor: Actor, signal: str) -> bytes:
    """The task's template, and the step that a signal would be for; an empty name where there is none."""
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    taker = signal_taker(actor.state, signal)
    return encode((actor.state.the_plan.ref, "" if taker is None else actor.state.name_of(taker)))


def answer_taken_by(actor: Actor, signal_id: str) -> bytes:
    """The name of the step that took a signal; null where it is kept."""
    assert isinstance(actor, TaskActor)
    state = actor.state
    taken = next((number for number, step in enumerate(state.steps) if step.signal_id == signal_id), None)
    return b"null" if taken is None else encode(state.name_of(taken))


def answer_explain(actor: Actor, step: str | None) -> bytes:
    """What a task, or one of its steps, waits for (`Explained`); an error where there is no such thing."""
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    if step is not None and number_named(actor.state, step) < 0:
        return encode(ApiError("NOT_FOUND", f"the task has no step {step[:100]!r}").body())
    return encode(explained(actor.state, now_ms(), step))


def answer_standing(actor: Actor, token: str) -> bytes:
    """How one stands before a gate (`Standing`)."""
    if not isinstance(actor, StreamActor) or actor.kind.name not in ("slots", "circuit", "rate"):
        return _NOT_A_GATE
    return encode(standing(actor.state, token))


def answer_gate(actor: Actor) -> bytes:
    """The gate with who holds it and who waits (`GateReply`)."""
    if not isinstance(actor, StreamActor) or actor.kind.name not in ("slots", "circuit", "rate"):
        return _NOT_A_GATE
    row = actor.kind.row(actor.state, actor.stream_id, actor.shard)
    return encode(gate_reply(actor.state, gate_item(row)))


def answer_results(actor: Actor, request: Results) -> bytes:
    """A page of results (`ResultsReply`), by bytes; all of the task's, or those that one of its steps gets to see."""
    if not isinstance(actor, TaskActor):
        return _NOT_A_TASK
    state = actor.state
    if request.step_name is None:
        numbers = state.shown_steps()
    elif state.number_of(request.step_name) >= 0:
        numbers = all_result_numbers(state, state.number_of(request.step_name))
    else:
        return encode(ApiError("NOT_FOUND", f"the task has no step {request.step_name!r}").body())
    results: dict[str, msgspec.Raw] = {}
    size_bytes = 0
    for offset in range(request.offset, len(numbers)):
        text = state.steps[numbers[offset]].result
        if text is None:
            continue
        name = state.name_of(numbers[offset])
        size_bytes += len(text.encode()) + len(name.encode())
        if results and size_bytes > INLINE_RESULTS_BYTES_MAX:
            return encode(api.ResultsReply(results=results, next_offset=offset))
        results[name] = msgspec.Raw(text)
    return encode(api.ResultsReply(results=results))
