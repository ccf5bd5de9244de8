"""A fork comes to the same as a task that is run from its beginning: whatever the workflow, wherever the original
stood, whatever was named to run anew, on the same template version and on another one."""

from __future__ import annotations

import os
from collections import Counter
from random import Random
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stepweave_orchestrator.core import CancelTask, Rejection
from stepweave_orchestrator.core.operator_commands import (
    AnyOperatorCommand,
    CompleteStep,
    PauseTask,
    ResolveStep,
    SkipStep,
)
from stepweave_orchestrator.core.plan import worker_name
from stepweave_schemas import events
from stepweave_schemas.template import TaskTemplate

from .dynamic_templates import dynamic_templates
from .forking import Run, fork_command, plan_of

_asked = os.environ.get("STEPWEAVE_EXAMPLES")
EXAMPLES: Final = settings(
    max_examples=int(_asked or 200),
    derandomize=_asked is None,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
#: What the examples came upon.
SEEN: Counter[str] = Counter()
WISHES: Final = ("complete", "pause", "resolve", "skip")
picks = st.integers(0, 1_000)


def with_a_step_before(template: TaskTemplate, number: int) -> TaskTemplate:
    """The next version: one of the steps depends on a new one."""
    content = msgspec.json.decode(template.canonical_json())
    steps = content["steps"]
    chosen = steps[number % len(steps)]
    # A batchable step that stands behind another step's batch is checked by its own rules.
    if chosen.get("type") != "batchable":
        chosen["dependencies"] = [*chosen.get("dependencies", ()), "fresh"]
    steps.append({"name": "fresh", "handler": {"callable": "run_fresh"}})
    return TaskTemplate.model_validate({**content, "version": "9.0.0"})


def run_some(run: Run, answers: list[int], failing: int, *, stops_in_batch: bool = False) -> None:
    """The original gets as far as these answers take it, or into a batch; one step may fail for good on the way, a
    batch if one runs."""
    for number, pick in enumerate(answers):
        names = run.awaited()
        if not names or (stops_in_batch and _is_in_batch(run)):
            return
        name = names[pick % len(names)]
        step = run.state.steps[run.state.number_of(name)]
        if number == failing:
            name = next((one for one in names if one in run.state.made), name)
            step = run.state.steps[run.state.number_of(name)]
        if number == failing and step.lease_token:
            run.fail(name)
        else:
            run.answer(name)


def _is_in_batch(run: Run) -> bool:
    return any(0 < batch.succeeded < batch.count for batch in run.state.batches.values())


def step_in(run: Run, wishes: list[tuple[str, int]]) -> None:
    """An operator does these things to the original, each to one of the steps that allow it."""
    for number, (action, pick) in enumerate(wishes):
        names = [run.state.name_of(each) for each in range(len(run.state.steps))]
        wished = [wish_of(action, name, f"wish-{number}") for name in names]
        allowed = [command for command in wished if not isinstance(run.ask(command), Rejection)]
        if allowed:
            run.tell(allowed[pick % len(allowed)])
            SEEN[action] += 1


def wish_of(action: str, name: str, request_id: str) -> AnyOperatorCommand:
    who = {"by": "ada", "reason": "why not", "request_id": request_id}
    match action:
        case "pause":
            return PauseTask(**who)
        case "skip":
            return SkipStep(step=name, **who)
        case "resolve":
            return ResolveStep(step=name, **who)
        case _:
            return CompleteStep(step=name, result=f'{{"of":"{name}"}}', **who)


def dependent_on(fork: Run, names: tuple[str, ...]) -> set[str]:
    """The steps of the template that wait for any of these, and these themselves: one that never exists waits for
    nothing, and nothing waits for it."""
    pending = [fork.plan.index[name] for name in names]
    found = set(pending)
    while pending:
        for number in fork.plan.dependents[pending.pop()]:
            if number not in found and fork.state.steps[number].status != "excluded":
                found.add(number)
                pending.append(number)
    return {fork.plan.steps[number].name for number in found}


@EXAMPLES
@given(
    template=dynamic_templates(),
    salt=st.integers(0, 50),
    answers=st.lists(picks, min_size=2, max_size=40) | st.just([0] * 60),
    failing=st.none() | st.integers(0, 8),
    ending=st.sampled_from(["none", "none", "cancel"]),
    seed=st.integers(0, 1_000_000),
    named=st.lists(picks, max_size=2),
    other_version=st.none() | st.integers(0, 20),
    order=st.randoms(use_true_random=False),
)
def test_a_fork_comes_to_the_same_as_a_task_from_its_beginning(
    template: TaskTemplate,
    salt: int,
    answers: list[int],
    failing: int | None,
    ending: str,
    seed: int,
    named: list[int],
    other_version: int | None,
    order: Any,
) -> None:
    plan = plan_of(template)
    new_plan = plan if other_version is None else plan_of(with_a_step_before(template, other_version))
    original = Run(plan, salt=salt).create()
    # Not drawn one by one: what is drawn is rarely something that a step allows.
    luck = Random(seed)
    asked = [(luck.choice(WISHES), luck.randrange(1_000)) for _ in range(luck.choice((0, 0, 1, 3)))]
    stops_in_batch = luck.random() < 0.4
    middle = len(answers) // 2 if asked else len(answers)
    run_some(original, answers[:middle], -1 if failing is None else failing, stops_in_batch=stops_in_batch)
    step_in(original, asked)
    run_some(original, answers[middle:], -1, stops_in_batch=stops_in_batch)
    by_hand = {
        event.step_name
        for event in original.history
        if isinstance(event, events.StepSkipped | events.StepResolvedManually | events.StepCompletedManually)
    }
    if ending == "cancel" and not isinstance(original.ask(CancelTask("no need", "ada")), Rejection):
        original.cancel()
    from_steps = tuple({new_plan.steps[number % len(new_plan.steps)].name for number in named})
    fork = Run(new_plan, "fork", answers=plan, salt=salt)
    command = fork_command(new_plan, original, original.past(), from_steps)
    refusal = fork.ask(command)
    if isinstance(refusal, Rejection):
        nothing_to_run = "every step is done" in refusal.reason
        assert nothing_to_run or "would not run" in refusal.reason
        assert not nothing_to_run or original.state.status in ("complete", "resolved_manually")
        SEEN["nothing to run" if nothing_to_run else "left out"] += 1
        return
    run = fork.fork(original, *from_steps)
    reused = fork.reused()
    assert not reused & {one.step for one in run}, "reused and run"
    again = dependent_on(fork, from_steps)
    workers = {worker_name(slot, number) for slot in again for number in range(1, 6)}
    assert not reused & (again | workers), "reused although it depends on what runs anew"
    fork.finish(order.choice)
    assert not reused & fork.given_out.keys(), "reused and given out"
    assert not [
        event.step_name
        for event in fork.history
        if isinstance(event, events.DomainPublished) and event.step_name in reused
    ], "published again"
    if by_hand & reused:
        # What an operator has said stays, so it may come to something else; but to an end it comes.
        assert fork.state.status == "complete"
        SEEN["settled by an operator, and reused"] += 1
        return
    if by_hand:
        SEEN["settled by an operator, and run anew"] += 1
    from_its_beginning = Run(new_plan, "scratch", answers=plan, salt=salt).create().finish()
    if any(step.status == "error" for step in fork.state.steps):
        # One batch of many had failed, and the fork puts up with it too.
        assert fork.state.status == "complete"
        SEEN["a failure put up with"] += 1
        return
    assert fork.outcome() == from_its_beginning.outcome()
    _count(original, fork, reused)


def _count(original: Run, fork: Run, reused: set[str]) -> None:
    SEEN[f"original is {original.state.status}"] += 1
    for event in fork.history[: len(reused) + 40]:
        SEEN[event.TYPE] += 1
    for batch in fork.state.batches.values():
        workers = fork.state.steps[batch.first : batch.first + batch.count]
        kept = [worker.reused is not None for worker in workers]
        if any(kept):
            SEEN["a batch reused as a whole" if all(kept) else "a batch reused in part"] += 1
    if fork.state.the_plan.ref != original.state.the_plan.ref and reused:
        SEEN["another version"] += 1


def test_the_examples_reach_every_situation() -> None:
    """So that the property above is worth something."""
    if not SEEN:
        test_a_fork_comes_to_the_same_as_a_task_from_its_beginning()
    wanted = (
        "a batch reused as a whole",
        "a batch reused in part",
        "another version",
        "batch.completed",
        "batch.created",
        "decision.routed",
        "original is cancelled",
        "original is complete",
        "original is error",
        "original is steps_in_process",
        "settled by an operator, and reused",
        "settled by an operator, and run anew",
        "step.reused",
        "complete",
        "pause",
        "resolve",
    )
    assert not [each for each in wanted if not SEEN[each]], SEEN
