"""What a handler sees of its try."""

from __future__ import annotations

from stepweave.testing import make_context


def test_the_tries() -> None:
    first = make_context(attempt=1, max_attempts=3)
    assert (first.attempt, first.retry_count, first.max_retries) == (1, 0, 2)
    assert not first.is_retry()
    assert not first.is_last_retry()
    last = make_context(attempt=3, max_attempts=3)
    assert last.is_retry()
    assert last.is_last_retry()
    assert make_context(attempt=1, max_attempts=1).is_last_retry()


def test_ids_are_stable() -> None:
    one = make_context(task_uuid="01890000-0000-7000-8000-000000000000", step_name="pay")
    two = make_context(task_uuid="01890000-0000-7000-8000-000000000000", step_name="pay", attempt=2)
    assert one.step_uuid == two.step_uuid
    assert one.task_uuid == two.task_uuid
    assert "task/pay attempt 2" in repr(two)


def test_input_and_configuration() -> None:
    context = make_context({"a": 1, "none": None}, config={"url": "x"})
    assert context.input_data == {"a": 1, "none": None}
    assert context.configuration is context.input_data
    assert context.get_input("a") == context.get_task_field("a") == 1
    assert context.get_input("missing") is None
    assert context.get_input_or("missing", 5) == 5
    assert context.get_input_or("none", 6) == 6
    assert context.step_config == {"url": "x"}
    assert (context.get_config("url"), context.get_config("no")) == ("x", None)


def test_results_of_ancestors() -> None:
    context = make_context(
        dependencies={"batch_2": [2], "batch_1": {"n": [10, {"deep": "yes"}]}, "empty": None, "other": 5}
    )
    assert context.dependency_results == {
        "batch_2": [2],
        "batch_1": {"n": [10, {"deep": "yes"}]},
        "empty": None,
        "other": 5,
    }
    assert context.parent_results is context.dependency_results
    assert context.get_dependency_result("other") == 5
    assert context.get_dependency_result("unknown") is None
    assert context.has_dependency_result("empty")
    assert not context.has_dependency_result("unknown")
    assert context.get_dependency_field("batch_1", "n", 1, "deep") == "yes"
    for path in (("n", 9), ("n", "x"), ("no",), ("n", 0, "deep")):
        assert context.get_dependency_field("batch_1", *path) is None
    assert context.get_dependency_field("unknown", "x") is None
    assert context.get_all_dependency_results("batch_") == [{"n": [10, {"deep": "yes"}]}, [2]]
    assert context.get_dependency_result_keys() == ["batch_2", "batch_1", "empty", "other"]


def test_heartbeat_and_cancellation() -> None:
    context = make_context(timeout_seconds=1.5)
    assert context.timeout_seconds == 1.5
    assert make_context().timeout_seconds is None
    beats: list[int] = []
    context.heartbeat()
    context.on_heartbeat = lambda: beats.append(1)
    context.heartbeat({"row": 3})
    assert (beats, context.heartbeat_details) == ([1], {"row": 3})
    assert not context.cancelled
    context.cancel()
    assert context.cancelled
