"""What a dispatch carries: the try, the handler, the results of ancestors within their bounds."""

from __future__ import annotations

from typing import Any

import msgspec

from stepweave_orchestrator.core import build_dispatch
from stepweave_orchestrator.core.dispatching import all_result_numbers
from stepweave_schemas.codec import decode_dispatch, encode
from stepweave_schemas.dispatch import (
    DISPATCH_BYTES_MAX,
    INLINE_RESULTS_BYTES_MAX,
    INLINE_TRANSITIVE_RESULTS_MAX,
    Dispatch,
)

from .scenario import (
    CONTEXT,
    CORRELATION_ID,
    T0_MS,
    TASK_ID,
    Happened,
    Scenario,
    awaited,
    begun,
    cancel,
    cancelled,
    child_requested,
    choose,
    completed,
    created,
    cut,
    enqueued,
    entered,
    fail,
    fail_for_good,
    given,
    release,
    released,
    retry,
    start,
    started,
    succeed,
    wake,
)
from .templates import compiled, diamond, step


def order(scenario: Scenario, name: str, **changes: Any) -> Dispatch | None:
    """The dispatch of the step's current try; `changes` are other attempts or tokens."""
    step = scenario.step(name)
    asked = {"attempt": step.attempt, "lease_token": step.lease_token, **changes}
    dispatch = build_dispatch(scenario.state, name, result_subject="sw.res.tests.0.x", **asked)
    assert dispatch is None or decode_dispatch(encode(dispatch)) == dispatch
    return dispatch


def results(dispatch: Dispatch | None) -> dict[str, Any]:
    assert dispatch is not None
    return {name: msgspec.json.decode(text) for name, text in dispatch.dependency_results.items()}


def done(name: str, result: object) -> tuple[Happened, Happened]:
    return enqueued(name), completed(name, result=msgspec.Raw(msgspec.json.encode(result)))


def test_a_dispatch_carries_everything_a_worker_needs() -> None:
    plan = compiled(
        step(
            "a",
            handler={"callable": "pay", "method": "go", "resolver": "r", "initialization": {"rate": 2}},
            retry={"max_attempts": 5},
            timeout_seconds=2.5,
        ),
        version="3.1.4",
    )
    scenario = given(
        plan,
        created(priority=7, parent_correlation_id="parent", traceparent="00-11-22-01"),
        enqueued("a", lease_token="token"),
    )
    assert order(scenario, "a") == Dispatch(
        task_id=TASK_ID,
        step_uuid=scenario.step("a").uuid,
        step_name="a",
        attempt=1,
        max_attempts=5,
        lease_token="token",
        namespace="tests",
        task_name="scenario",
        template_version="3.1.4",
        handler="pay",
        method="go",
        resolver="r",
        initialization=msgspec.Raw(b'{"rate":2}'),
        context=CONTEXT,
        correlation_id=CORRELATION_ID,
        parent_correlation_id="parent",
        priority=7,
        result_subject="sw.res.tests.0.x",
        enqueued_at_ms=T0_MS,
        timeout_ms=2_500,
        traceparent="00-11-22-01",
    )


def test_no_timeout_means_none() -> None:
    dispatch = order(begun(compiled("a")), "a")
    assert dispatch is not None
    assert dispatch.timeout_ms is None


def test_handlers_read_the_results_of_every_ancestor_the_nearest_first() -> None:
    plan = compiled("a", "b: a", "c: b", "x", "d: c x")
    scenario = given(
        plan,
        created(),
        *done("a", {"n": 1}),
        *done("x", [2]),
        *done("b", None),
        *done("c", "é"),
        enqueued("d"),
    )
    dispatch = order(scenario, "d")
    assert dispatch is not None
    assert list(dispatch.dependency_results) == ["c", "x", "b", "a"]
    assert results(dispatch) == {"c": "é", "x": [2], "b": None, "a": {"n": 1}}
    assert dispatch.dependency_results_complete


def test_a_root_has_no_results_and_lacks_none() -> None:
    dispatch = order(begun(diamond()), "a")
    assert dispatch is not None
    assert dispatch.dependency_results == {}
    assert dispatch.dependency_results_complete


def test_results_of_steps_that_are_no_ancestors_stay_away() -> None:
    plan = compiled("a", "b: a", "c: a")
    scenario = given(plan, created(), *done("a", 1), *done("c", 3), enqueued("b"))
    assert results(order(scenario, "b")) == {"a": 1}


def chain_of(count: int) -> Scenario:
    """A chain `s0 … s<count>` whose last step is given out; each other one resulted in its number."""
    steps = ["s0", *(f"s{number}: s{number - 1}" for number in range(1, count + 1))]
    events = [event for number in range(count) for event in done(f"s{number}", number)]
    return given(compiled(*steps), created(), *events, enqueued(f"s{count}"))


def test_as_many_further_ancestors_as_fit_travel_along() -> None:
    # One direct dependency and as many others as the bound allows: nothing is missing.
    fitting = chain_of(INLINE_TRANSITIVE_RESULTS_MAX + 1)
    dispatch = order(fitting, f"s{INLINE_TRANSITIVE_RESULTS_MAX + 1}")
    assert dispatch is not None
    assert len(dispatch.dependency_results) == INLINE_TRANSITIVE_RESULTS_MAX + 1
    assert dispatch.dependency_results_complete

    over = chain_of(INLINE_TRANSITIVE_RESULTS_MAX + 2)
    dispatch = order(over, f"s{INLINE_TRANSITIVE_RESULTS_MAX + 2}")
    assert dispatch is not None
    assert len(dispatch.dependency_results) == INLINE_TRANSITIVE_RESULTS_MAX + 1
    assert not dispatch.dependency_results_complete
    # The farthest one is the one that is left out; whoever wants it asks for it.
    assert "s0" not in dispatch.dependency_results
    assert len(over.plan.ancestors(len(over.plan.steps) - 1)) == INLINE_TRANSITIVE_RESULTS_MAX + 2


def test_direct_dependencies_do_not_count_against_the_bound() -> None:
    width = INLINE_TRANSITIVE_RESULTS_MAX + 44
    names = [f"s{number}" for number in range(width)]
    plan = compiled("root", *(f"{name}: root" for name in names), f"join: {' '.join(names)}")
    events = [event for name in names for event in done(name, name)]
    scenario = given(plan, created(), *done("root", "r"), *events, enqueued("join"))
    assert results(order(scenario, "join")) == {**{name: name for name in names}, "root": "r"}


def test_results_are_left_out_where_they_would_be_too_large() -> None:
    # Two quotes, the name of one letter and what stands around it make it exactly half.
    half = "x" * (INLINE_RESULTS_BYTES_MAX // 2 - 2 - 5)
    plan = compiled("a", "b: a", "c: b", "d: c")
    scenario = given(plan, created(), *done("a", 1), *done("b", half), *done("c", half), enqueued("d"))
    dispatch = order(scenario, "d")
    assert dispatch is not None
    assert set(dispatch.dependency_results) == {"b", "c"}
    assert not dispatch.dependency_results_complete

    scenario = given(
        compiled("a", "b: a", "c: b"), created(), *done("a", half), *done("b", half), enqueued("c")
    )
    dispatch = order(scenario, "c")
    assert dispatch is not None
    assert set(dispatch.dependency_results) == {"a", "b"}
    assert dispatch.dependency_results_complete


def test_the_size_of_results_is_counted_in_bytes() -> None:
    half = "é" * (INLINE_RESULTS_BYTES_MAX // 4)
    plan = compiled("a", "b", "c: a b")
    scenario = given(plan, created(), *done("a", half), *done("b", half), enqueued("c"))
    dispatch = order(scenario, "c")
    assert dispatch is not None
    assert set(dispatch.dependency_results) == {"a"}
    assert not dispatch.dependency_results_complete
    assert len(encode(dispatch)) < DISPATCH_BYTES_MAX


def test_there_is_no_dispatch_for_a_try_that_is_over() -> None:
    scenario = begun(compiled("a", "b: a"))
    token = scenario.token("a")
    assert order(scenario, "a") is not None
    assert order(scenario, "a", attempt=2) is None
    assert order(scenario, "a", lease_token="other") is None
    # Running already, by another copy of the same dispatch: it may be published again.
    scenario.when(start("a")).then(started("a"))
    assert order(scenario, "a") is not None
    scenario.when(fail("a")).then(retry("a"))
    assert order(scenario, "a") is None
    scenario.later(1_000).when(wake()).then(enqueued("a", 2))
    assert order(scenario, "a", attempt=1, lease_token=token) is None
    scenario.when(release("a")).then(released("a", 2), enqueued("a", 2))
    assert order(scenario, "a", lease_token=scenario.token("a", 2, 0)) is None
    assert order(scenario, "a") is not None
    scenario.when(succeed("a")).then(completed("a", 2), enqueued("b"))
    assert order(scenario, "a") is None
    scenario.when(cancel()).then(cancelled("b"))
    assert order(scenario, "b") is None


# -- what is made while the task runs ----------------------------------------------------------------


def test_the_inputs_of_ordinary_steps_are_empty() -> None:
    plan = compiled(step("route", type="decision"), "a: route", step("join: a", type="deferred_convergence"))
    scenario = begun(plan).run(choose("route", "a"))
    for name in ("a",):
        dispatch = order(scenario, name)
        assert dispatch is not None
        assert (bytes(dispatch.step_inputs), dispatch.compensates, dispatch.checkpoint) == (b"{}", "", None)
    scenario.run(succeed("a"))
    dispatch = order(scenario, "join")
    assert dispatch is not None
    assert bytes(dispatch.step_inputs) == b"{}"


def test_what_was_never_created_has_no_result() -> None:
    plan = compiled(
        step("route", type="decision"),
        "a: route",
        "b: route",
        step("join: a b", type="deferred_convergence"),
    )
    scenario = begun(plan).run(choose("route", "b", result="r"), succeed("b", result=2))
    dispatch = order(scenario, "join")
    assert results(dispatch) == {"b": 2, "route": "r"}
    assert dispatch is not None
    assert dispatch.dependency_results_complete


def test_results_of_batches_are_bounded_like_others() -> None:
    plan = compiled(
        step("cut", type="batchable"),
        step("load: cut", type="batch_worker"),
        step("merge: load", type="deferred_convergence"),
    )
    third = "x" * (INLINE_RESULTS_BYTES_MAX // 3)
    scenario = begun(plan).run(
        cut("cut", 1, 2, 3), *(succeed(f"load_00{each}", result=third) for each in (1, 2, 3))
    )
    dispatch = order(scenario, "merge")
    assert dispatch is not None
    assert list(dispatch.dependency_results) == ["load_001", "load_002"]
    assert not dispatch.dependency_results_complete
    assert len(encode(dispatch)) < DISPATCH_BYTES_MAX
    # The rest is asked for, by the same rule.
    number = scenario.state.number_of("merge")
    names = [scenario.state.name_of(each) for each in all_result_numbers(scenario.state, number)]
    assert names == ["load_001", "load_002", "load_003", "cut"]


def test_a_batch_further_back_travels_along_where_all_of_it_fits() -> None:
    plan = compiled(
        step("cut", type="batchable"),
        step("load: cut", type="batch_worker"),
        step("merge: load", type="deferred_convergence"),
        "report: merge",
    )

    def at_the_report(count: int) -> Dispatch:
        workers = [f"load_{number:03d}" for number in range(1, count + 1)]
        scenario = begun(plan).run(cut("cut", *workers), *(succeed(name, result=1) for name in workers))
        dispatch = order(scenario.run(succeed("merge")), "report")
        assert dispatch is not None
        return dispatch

    fitting = at_the_report(INLINE_TRANSITIVE_RESULTS_MAX - 1)
    assert len(fitting.dependency_results) == INLINE_TRANSITIVE_RESULTS_MAX + 1
    assert fitting.dependency_results_complete
    over = at_the_report(INLINE_TRANSITIVE_RESULTS_MAX + 1)
    assert list(over.dependency_results) == ["merge"]
    assert not over.dependency_results_complete


def test_there_is_no_dispatch_for_steps_that_no_worker_runs() -> None:
    plan = compiled(
        step("wait", handler={"callable": "stepweave:signal"}, wait_for_signal={"name": "go"}),
        step("child", handler={"callable": "stepweave:child_task"}, child_task={"name": "other"}),
    )
    scenario = entered(plan, awaited("wait", "go"), child_requested("child"))
    assert order(scenario, "wait") is None
    assert order(scenario, "child") is None


def test_a_batch_that_was_cancelled_is_not_dispatched() -> None:
    plan = compiled(
        step("cut", type="batchable", batch_config={"failure_strategy": "fail_fast", "parallelism": 1}),
        step("load: cut", type="batch_worker"),
    )
    scenario = begun(plan).run(cut("cut", 1, 2), fail_for_good("load_001"))
    assert order(scenario, "load_001") is None
    assert order(scenario, "load_002") is None
