"""Random templates that mix everything a workflow may hold: decisions inside decisions, convergences, batches, steps
that wait for signals or for other tasks, compensations.

Each is one that registration takes (`test_dynamic_properties` checks it).
"""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from stepweave_schemas.template import TaskTemplate

from .dynamic_domain_events import COMMON, OWN
from .templates import step, template

#: Pieces that a template is put together from; a fork is up to six steps and more, a batch up to three.
PIECES_MAX: Final = 6
#: The signals that steps wait for.
SIGNALS: Final = ("approval", "payment")

retries = st.fixed_dictionaries(
    {
        "max_attempts": st.sampled_from([2, 3, 1]),
        "retryable": st.sampled_from([True, True, True, True, False]),
        "backoff": st.sampled_from(["fixed", "exponential", "none"]),
        "backoff_base_ms": st.sampled_from([100, 20_000, 0]),
        "jitter": st.sampled_from([0.0, 0.5]),
    }
)
timeouts_seconds = st.sampled_from([None, 0.05, 3.0])
kinds = st.sampled_from(["standard"] * 3 + ["convergence"] * 2 + ["batchable", "signal", "child"])
_OWN_EVENTS: Final = st.sampled_from([[], [], [], list(OWN[:1]), list(OWN[:4]), list(OWN[4:])])
branch_kinds = st.sampled_from(["standard"] * 3 + ["decision", "decision", "batchable", "signal", "child"])


class _Builder:
    """Steps in the making, each after its dependencies."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._policies = draw(st.lists(st.tuples(retries, timeouts_seconds), min_size=1, max_size=3))
        self._dependent_on: set[str] = set()
        self.steps: list[dict[str, Any]] = []

    def earlier(self, most: int) -> list[str]:
        """Up to `most` steps made before, the latest ones rather than others."""
        if not self.steps:
            return []
        back = self._draw(st.lists(st.integers(1, min(6, len(self.steps))), max_size=most))
        return list(dict.fromkeys(self.steps[-each]["name"] for each in back))

    def add(self, kind: str, dependencies: list[str]) -> list[str]:
        """A step of a kind, with what belongs to it; returns the names of those that others would depend on."""
        name = f"s{len(self.steps)}"
        retry, timeout_seconds = self._policies[len(self.steps) % len(self._policies)]
        made = step(f"{name}: {' '.join(dependencies)}", retry=retry)
        if timeout_seconds is not None and kind != "signal":
            made["timeout_seconds"] = timeout_seconds
        if self._draw(st.integers(0, 2)) == 1:
            made["compensation"] = self._compensation(name)
        own = self._draw(_OWN_EVENTS)
        by_handlers = kind not in ("signal", "child")
        made["publishes_events"] = [each for each in own if by_handlers or "payload" not in each]
        if self._draw(st.integers(0, 3)) == 1:
            made["skippable"] = True
        self.steps.append(made)
        self._dependent_on.update(dependencies)
        match kind:
            case "decision":
                made["type"] = "decision"
            case "convergence":
                made["type"] = "deferred_convergence"
            case "signal":
                made["handler"] = {"callable": "stepweave:signal"}
                made["wait_for_signal"] = self._signal()
            case "child":
                made["handler"] = {"callable": "stepweave:child_task"}
                made["child_task"] = self._child(dependencies)
            case "batchable":
                return self._batch(name, made)
        return [name]

    def fork(self, dependencies: list[str]) -> list[str]:
        """A decision, its branches, and perhaps what brings them together."""
        (decision,) = self.add("decision", dependencies)
        ends: list[str] = []
        for kind in self._draw(st.lists(branch_kinds, min_size=2, max_size=4)):
            beside = self.earlier(1) if self._draw(st.integers(0, 3)) == 0 else []
            ends += self.add(kind, list(dict.fromkeys([decision, *beside])))
        if self._draw(st.integers(0, 3)):
            outside = dependencies[:1] if self._draw(st.booleans()) else []
            return self.add("convergence", list(dict.fromkeys([*ends, *outside])))
        return ends

    def finished(self) -> list[dict[str, Any]]:
        """All steps; a decision that nothing depends on decides nothing and becomes a standard step."""
        for made in self.steps:
            if made.get("type") == "decision" and made["name"] not in self._dependent_on:
                del made["type"]
        return self.steps

    def _batch(self, name: str, made: dict[str, Any]) -> list[str]:
        made["type"] = "batchable"
        strategy = self._draw(st.sampled_from(["fail_fast", "continue_on_failure", "isolate"]))
        made["batch_config"] = {"failure_strategy": strategy}
        parallelism = self._draw(st.sampled_from([None, 1, 2]))
        if parallelism is not None:
            made["batch_config"]["parallelism"] = parallelism
        workers: list[str] = []
        for _ in range(self._draw(st.sampled_from([1, 1, 1, 2]))):
            beside = [each for each in self.earlier(1) if not self._is_batchable(each)]
            workers += self.add("worker", list(dict.fromkeys([name, *beside])))
            self.steps[-1]["type"] = "batch_worker"
        if len(workers) > 1 or self._draw(st.booleans()):
            made["batch_config"]["worker_template"] = workers[0]
        return workers

    def _is_batchable(self, name: str) -> bool:
        return any(made["name"] == name and made.get("type") == "batchable" for made in self.steps)

    def _compensation(self, name: str) -> dict[str, Any]:
        handler = self._draw(st.sampled_from([f"undo_{name}", f"undo_{name}", "undo_any"]))
        retry, timeout_seconds = self._policies[0]
        made: dict[str, Any] = {"handler": {"callable": handler}, "retry": retry}
        if timeout_seconds is not None:
            made["timeout_seconds"] = timeout_seconds
        return made

    def _signal(self) -> dict[str, Any]:
        made: dict[str, Any] = {"name": self._draw(st.sampled_from(SIGNALS))}
        seconds = self._draw(st.sampled_from([None, 2.0, 60.0]))
        if seconds is not None:
            made["timeout_seconds"] = seconds
            if self._draw(st.booleans()):
                made["default"] = {"by": "time"}
        return made

    def _child(self, dependencies: list[str]) -> dict[str, Any]:
        workers = {made["name"] for made in self.steps if made.get("type") == "batch_worker"}
        readable = [name for name in dependencies if name not in workers]
        context: dict[str, Any] = {"order": "${context.order}"}
        if bool(readable) and self._draw(st.booleans()):
            context["earlier"] = f"${{steps.{readable[0]}}}"
        return {
            "name": "child",
            "parent_close": self._draw(st.sampled_from(["cancel", "cancel", "abandon"])),
            "context": context,
        }


@st.composite
def dynamic_templates(draw: st.DrawFn) -> TaskTemplate:
    """A random template, its steps written down in random order."""
    builder = _Builder(draw)
    for piece in draw(st.lists(st.sampled_from(["step", "fork"]), min_size=2, max_size=PIECES_MAX)):
        if piece == "fork":
            builder.fork(builder.earlier(2))
        else:
            builder.add(draw(kinds), builder.earlier(3))
    steps = builder.finished()
    undone = any("compensation" in made for made in steps)
    settings: dict[str, Any] = {"domain_events": [{"name": COMMON}]}
    on_failure = draw(st.sampled_from([None, None, "compensate", "block", "fail"]))
    if on_failure is not None and (undone or on_failure != "compensate"):
        settings["on_failure"] = on_failure
    return template(*draw(st.permutations(steps)), **settings)
