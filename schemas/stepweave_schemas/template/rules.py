"""The rules between the steps of a template.

They look at the canonical dict, not at the model, so that they speak up even where a value elsewhere is wrong:
one check finds everything.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from stepweave_schemas.child_context import parse_reference, texts_in

from .graph import cycles_of, dependents_of, order_of
from .model import ALL_STEPS, CHILD_TASK_HANDLER, SIGNAL_HANDLER, meaningless_for
from .problems import did_you_mean, excerpt
from .reading import Location, Reading

#: Misspelled step names for which the nearest name is looked up, and how many names are compared.
_SUGGESTIONS_MAX: Final = 50
_COMPARED_MAX: Final = 2_000
#: Steps of a cycle that a message names.
_CYCLE_STEPS_SHOWN: Final = 20
#: Decisions directly before one step that are looked at for joined branches.
_DECISIONS_COMPARED_MAX: Final = 20
#: How the names of a worker step's batches end, after `_`.
_BATCH_NUMBER: Final = re.compile(r"00[1-9]|0[1-9][0-9]|[1-9][0-9]{2,}")
#: `domain.published` is what subscribers ask for who want every domain event.
_RESERVED_EVENT_NAME: Final = "published"
#: Keys of a step that say nothing where no handler of its own runs.
_IGNORED_BY_WAIT: Final = {
    "wait_for_signal": ("timeout_seconds", "retry", "queue"),
    "child_task": ("queue",),
}


#: Why a step that runs no handler has no such gate, and what to do instead.
_NO_GATE: Final = {
    "concurrency": (
        "runs nothing whose number could be limited",
        "limit the steps that run, or the whole task with `concurrency` of the template",
    ),
    "circuit_breaker": (
        "calls no service itself, so there is no circuit that could be open",
        "give `circuit_breaker` to the steps whose handlers call the service",
    ),
}


@dataclass(slots=True)
class _Step:
    """A step as far as it could be read."""

    number: int
    name: str
    type: str
    dependencies: list[tuple[int, str]]
    data: dict[str, Any]


def complete_handlers(data: dict[str, Any]) -> None:
    """Give steps that run no handler (they wait for a signal or a child task) their built-in one."""
    for step in _dicts(data.get("steps")):
        if "handler" not in step and isinstance(step.get("wait_for_signal"), dict):
            step["handler"] = {"callable": SIGNAL_HANDLER}
        elif "handler" not in step and isinstance(step.get("child_task"), dict):
            step["handler"] = {"callable": CHILD_TASK_HANDLER}


def note_broken_rules(reading: Reading) -> None:
    """Add a problem for each rule between steps that the document breaks."""
    if reading.data is not None:
        _Rules(reading, reading.data).check()


class _Rules:
    def __init__(self, reading: Reading, data: dict[str, Any]) -> None:
        self._reading = reading
        self._data = data
        self._steps = [_step(number, step) for number, step in _numbered(data.get("steps"))]
        self._by_name: dict[str, _Step] = {}
        self._suggested = 0

    def check(self) -> None:
        self._names()
        parents = self._dependencies()
        self._cycles(parents)
        self._orphans(parents)
        dependents = dependents_of(parents)
        self._decisions(dependents)
        self._joins(parents)
        self._batches(parents, dependents)
        self._waiting_steps()
        self._child_contexts(parents)
        self._compensations()
        self._domain_events()
        self._environments()

    def _note(
        self,
        code: str,
        message: str,
        location: Location,
        *,
        warning: bool = False,
        hint: str | Callable[[], str | None] | None = None,
    ) -> None:
        place = self._reading.place(location)
        self._reading.problems.add(
            code,
            message,
            path=place.path,
            line=place.line,
            severity="warning" if warning else "error",
            hint=hint,
        )

    def _suggest(self, name: str) -> str | None:
        """The nearest step name; for the first misspellings only, for each costs a look at all names."""
        self._suggested += 1
        if self._suggested > _SUGGESTIONS_MAX:
            return None
        known = list(self._by_name)[:_COMPARED_MAX]
        return did_you_mean(name, known)

    # -- the graph ---------------------------------------------------------------------------------

    def _names(self) -> None:
        for step in self._steps:
            if not step.name:
                continue
            location = ("steps", step.number, "name")
            first = self._by_name.setdefault(step.name, step)
            if first is not step:
                line = self._reading.place(("steps", first.number, "name")).line
                self._note(
                    "DUPLICATE_STEP_NAME",
                    f"{excerpt(step.name)} is the name of another step, on line {line}",
                    location,
                    hint="give each step its own name",
                )
            if step.name == ALL_STEPS:
                self._note("BAD_VALUE", f"{ALL_STEPS!r} stands for every step in `environments`", location)

    def _dependencies(self) -> list[list[int]]:
        """The numbers of each step's dependencies, as far as they exist."""
        order = {id(step): position for position, step in enumerate(self._steps)}
        parents: list[list[int]] = []
        for step in self._steps:
            own: dict[int, None] = {}
            seen: set[str] = set()
            for number, name in step.dependencies:
                location = ("steps", step.number, "dependencies", number)
                target = self._by_name.get(name)
                if name in seen:
                    self._note("BAD_VALUE", f"{excerpt(name)} is named twice", location, hint="keep one")
                elif name == step.name:
                    self._note("SELF_DEPENDENCY", f"{excerpt(name)} depends on itself", location)
                elif target is None:
                    self._note(
                        "MISSING_DEP_REF",
                        f"no step is called {excerpt(name)}",
                        location,
                        hint=partial(self._suggest, name),
                    )
                else:
                    own[order[id(target)]] = None
                seen.add(name)
            parents.append(list(own))
        return parents

    def _cycles(self, parents: list[list[int]]) -> None:
        for cycle in cycles_of(parents):
            names = [self._steps[number].name for number in cycle]
            names.append(names[0])
            cut = len(names) - _CYCLE_STEPS_SHOWN
            if cut > 1:
                names[_CYCLE_STEPS_SHOWN // 2 : -(_CYCLE_STEPS_SHOWN // 2)] = [f"… {cut} more …"]
            # The edge that closes the cycle stands with its first step.
            self._note(
                "CYCLE_DETECTED",
                f"these steps wait for each other: {' -> '.join(names)}",
                ("steps", self._steps[cycle[0]].number, "dependencies"),
                hint="take one of these dependencies out",
            )

    def _orphans(self, parents: list[list[int]]) -> None:
        if len(self._steps) < 2:
            return
        linked = {parent for own in parents for parent in own}
        for position, step in enumerate(self._steps):
            if step.name and position not in linked and not step.dependencies:
                self._note(
                    "ORPHAN_STEP",
                    "the step depends on no other and no other depends on it",
                    ("steps", step.number),
                    warning=True,
                )

    # -- steps that create steps -------------------------------------------------------------------

    def _decisions(self, dependents: list[list[int]]) -> None:
        sources = [
            position for position, step in enumerate(self._steps) if step.type in ("decision", "batchable")
        ]
        behind = _reachable(sources, dependents)
        for position, step in enumerate(self._steps):
            if step.type == "decision" and not dependents[position]:
                self._note(
                    "DECISION_TARGET_INVALID",
                    "no step depends on this decision, so there is nothing that it could create",
                    ("steps", step.number),
                    hint="let its branches depend on it",
                )
            elif step.type == "deferred_convergence" and position not in behind:
                self._note(
                    "DECISION_TARGET_INVALID",
                    "no decision or batch comes before this convergence; it runs like a standard step",
                    ("steps", step.number, "type"),
                    warning=True,
                )

    def _joins(self, parents: list[list[int]]) -> None:
        """Warn about steps that run only where a decision takes several of its branches at once."""
        decisions: list[list[int]] = []
        for step, own in zip(self._steps, parents, strict=True):
            is_branch = step.type not in ("deferred_convergence", "batch_worker")
            above = [parent for parent in own if self._steps[parent].type == "decision"] if is_branch else []
            decisions.append(above[:_DECISIONS_COMPARED_MAX])
        #: For each step that exists only with one certain branch: that branch.
        branch_of: dict[int, int] = {}
        for number in order_of(parents):
            own = parents[number]
            if self._steps[number].type == "deferred_convergence":
                continue
            joined = list(dict.fromkeys(branch_of[parent] for parent in own if parent in branch_of))
            self._note_join(number, joined, decisions, own)
            if decisions[number]:
                branch_of[number] = number
            elif len(joined) == 1:
                branch_of[number] = joined[0]

    def _note_join(
        self, number: int, joined: list[int], decisions: list[list[int]], parents: list[int]
    ) -> None:
        taken: dict[int, int] = {}
        for branch in joined:
            for decision in decisions[branch]:
                other = taken.setdefault(decision, branch)
                # A step behind the decision itself is one more branch, and waits for those that exist.
                if other != branch and decision not in parents:
                    names = [excerpt(self._steps[each].name) for each in (other, branch, decision)]
                    self._note(
                        "DECISION_TARGET_INVALID",
                        f"it needs {names[0]} and {names[1]}, so it runs only where {names[2]} takes both branches",
                        ("steps", self._steps[number].number, "dependencies"),
                        warning=True,
                        hint="add `type: deferred_convergence` to wait for those that are taken",
                    )
                    return

    def _batches(self, parents: list[list[int]], dependents: list[list[int]]) -> None:
        for position, step in enumerate(self._steps):
            if step.type == "batchable":
                self._batchable(step, [self._steps[number] for number in dependents[position]])
                continue
            if step.type == "batch_worker":
                before = [self._steps[number] for number in parents[position]]
                self._batch_worker(step, [each.name for each in before if each.type == "batchable"])
            self._batch_name(step)
            if "batch_config" in step.data:
                self._only_batchable(step, ("steps", step.number, "batch_config"))

    def _batch_worker(self, step: _Step, batchables: list[str]) -> None:
        if not batchables:
            self._note(
                "BATCH_WORKER_MISSING",
                "a batch worker depends on the batchable step whose batches it runs; this one does not",
                ("steps", step.number),
            )
        elif len(batchables) > 1:
            self._note(
                "BAD_VALUE",
                f"a batch worker runs the batches of one batchable step; this one depends on {len(batchables)}: "
                f"{excerpt(batchables[0])}, {excerpt(batchables[1])}{' …' if len(batchables) > 2 else ''}",
                ("steps", step.number, "dependencies"),
                hint="give each batchable step a worker step of its own",
            )

    def _batch_name(self, step: _Step) -> None:
        """Steps `{worker}_001` … are made while a task runs: no step of the template is called so."""
        name, _, number = step.name.rpartition("_")
        worker = self._by_name.get(name)
        if worker is not None and worker.type == "batch_worker" and _BATCH_NUMBER.fullmatch(number):
            self._note(
                "DUPLICATE_STEP_NAME",
                f"{excerpt(step.name)} is what a batch of {excerpt(name)} is called",
                ("steps", step.number, "name"),
                hint="give it a name that does not end in a number",
            )

    def _only_batchable(self, step: _Step, location: Location) -> None:
        if step.type != "batchable":
            self._note(
                "BAD_VALUE",
                f"only a batchable step has a batch_config; {excerpt(step.name)} is none",
                location,
                hint="add `type: batchable` to the step",
            )

    def _batchable(self, step: _Step, followers: list[_Step]) -> None:
        config = step.data.get("batch_config")
        named = config.get("worker_template") if isinstance(config, dict) else None
        workers = [each.name for each in followers if each.type == "batch_worker"]
        if isinstance(named, str) and named not in workers:
            self._note(
                "BATCH_WORKER_MISSING",
                f"{excerpt(named)} is no batch_worker step that depends on {excerpt(step.name)}",
                ("steps", step.number, "batch_config", "worker_template"),
                hint=partial(did_you_mean, named, workers[:_COMPARED_MAX]),
            )
        elif named is None and not workers:
            self._note(
                "BATCH_WORKER_MISSING",
                "no step of type batch_worker depends on this batchable step",
                ("steps", step.number),
            )

    # -- the rest ----------------------------------------------------------------------------------

    def _waiting_steps(self) -> None:
        for step in self._steps:
            waits = [key for key in ("wait_for_signal", "child_task") if key in step.data]
            if len(waits) == 2:
                self._note(
                    "BAD_VALUE",
                    "a step waits for a signal or for a child task, not for both",
                    ("steps", step.number, "child_task"),
                )
            if waits and step.type != "standard":
                self._note(
                    "BAD_VALUE",
                    f"a step with {waits[0]} has the type standard, not {excerpt(step.type)}",
                    ("steps", step.number, "type"),
                )
            handler = step.data.get("handler")
            name = handler.get("callable") if isinstance(handler, dict) else None
            if waits and name not in (None, SIGNAL_HANDLER, CHILD_TASK_HANDLER):
                self._note(
                    "IGNORED_KEY",
                    f"a step with {waits[0]} runs no handler",
                    ("steps", step.number, "handler"),
                    warning=True,
                    hint="take the handler out",
                )
            if waits:
                self._ignored(step, step.data, ("steps", step.number), _IGNORED_BY_WAIT[waits[0]])
            self._gates(step, step.data, ("steps", step.number))
            signal = step.data.get("wait_for_signal")
            if isinstance(signal, dict) and "default" in signal and "timeout_seconds" not in signal:
                self._note(
                    "IGNORED_KEY",
                    "'default' means nothing without timeout_seconds: the step waits for ever",
                    ("steps", step.number, "wait_for_signal", "default"),
                    warning=True,
                    hint="give `wait_for_signal.timeout_seconds`, or take the default out",
                )

    def _gates(self, step: _Step, given: dict[str, Any], location: Location) -> None:
        """Slots and circuit breakers, here or in an environment, where nothing runs that they could hold."""
        for key in sorted(meaningless_for(step.data)):
            if key in given and key in _NO_GATE:
                wait = "wait_for_signal" if "wait_for_signal" in step.data else "child_task"
                message, hint = _NO_GATE[key]
                self._note("BAD_VALUE", f"a step with {wait} {message}", (*location, key), hint=hint)

    def _ignored(self, step: _Step, given: dict[str, Any], location: Location, keys: Iterable[str]) -> None:
        """Warn about keys, here or in an environment, that mean nothing for a step that runs no handler."""
        wait = "wait_for_signal" if "wait_for_signal" in step.data else "child_task"
        for key in keys:
            # The step's compensation runs in its queue.
            if key not in given or (key == "queue" and "compensation" in step.data):
                continue
            own = key == "timeout_seconds" and "timeout_seconds" not in step.data[wait]
            hint = "give `wait_for_signal.timeout_seconds` instead" if own else "take it out"
            self._note(
                "IGNORED_KEY",
                f"{key!r} means nothing for a step with {wait}",
                (*location, key),
                warning=True,
                hint=hint,
            )

    def _child_contexts(self, parents: list[list[int]]) -> None:
        """The references in the contexts of child tasks: well formed, and to steps that come before."""
        found: list[tuple[int, Location, str]] = []
        for position, step in enumerate(self._steps):
            child = step.data.get("child_task")
            context = child.get("context") if isinstance(child, dict) else None
            for way, text in texts_in(context):
                location = ("steps", step.number, "child_task", "context", *way)
                name = self._referred(text, location)
                if name is not None:
                    found.append((position, location, name))
        bits = {name: 1 << number for number, name in enumerate(dict.fromkeys(name for _, _, name in found))}
        #: For each step, as bits: which of the steps referred to come before it.
        before: dict[int, int] = {}
        for number in order_of(parents) if found else []:
            before[number] = 0
            for parent in parents[number]:
                before[number] |= before[parent] | bits.get(self._steps[parent].name, 0)
        for position, location, name in found:
            if position in before and not before[position] & bits[name]:
                own = name == self._steps[position].name
                self._note(
                    "MISSING_DEP_REF",
                    "a step cannot refer to its own result"
                    if own
                    else f"{excerpt(name)} does not come before this step, so there may be no result yet",
                    location,
                    hint=None if own else f"add {excerpt(name)} to the dependencies of this step",
                )

    def _referred(self, text: str, location: Location) -> str | None:
        """The step that a text refers to, if it is a reference to one."""
        try:
            reference = parse_reference(text)
        except ValueError as error:
            self._note(
                "BAD_VALUE",
                f"{excerpt(text)} is no reference: {error}",
                location,
                hint="such as ${context.order.id} or ${steps.charge.amount}",
            )
            return None
        if reference is None or reference.source == "context":
            return None
        named = reference.step_and_path(self._by_name)
        if named is None:
            self._note(
                "MISSING_DEP_REF",
                f"{excerpt(text)} names no step of this template",
                location,
                hint=partial(self._suggest, reference.parts[0]),
            )
            return None
        if self._by_name[named[0]].type == "batch_worker":
            self._note(
                "MISSING_DEP_REF",
                f"{excerpt(named[0])} is run once for each batch and has no result of its own",
                location,
                hint="refer to a step that brings the batches together",
            )
            return None
        return named[0]

    def _compensations(self) -> None:
        if any("compensation" in step.data for step in self._steps):
            return
        places: list[tuple[Any, Location]] = [(self._data.get("on_failure"), ("on_failure",))]
        places += [
            (override.get("on_failure"), ("environments", name, "on_failure"))
            for name, override in _items(self._data.get("environments"))
        ]
        for value, location in places:
            if value == "compensate":
                self._note(
                    "COMPENSATION_INVALID",
                    "no step declares a compensation, so there is nothing to run",
                    location,
                    hint="add `compensation: {handler: NAME}` to the steps that can be undone",
                )

    def _domain_events(self) -> None:
        self._event_names(self._data.get("domain_events"), ("domain_events",))
        for step in self._steps:
            events = step.data.get("publishes_events")
            self._event_names(events, ("steps", step.number, "publishes_events"))
            waits = next((key for key in _IGNORED_BY_WAIT if key in step.data), None)
            for number, event in _numbered(events):
                if waits is not None and event.get("payload") == "handler":
                    self._note(
                        "BAD_VALUE",
                        f"nobody would publish it: a step with {waits} runs no handler",
                        ("steps", step.number, "publishes_events", number, "payload"),
                        hint="take `payload` out, and it is published with the step's result",
                    )

    def _event_names(self, events: object, location: Location) -> None:
        seen: dict[str, int] = {}
        for number, event in _numbered(events):
            name = event.get("name")
            if not isinstance(name, str):
                continue
            here = (*location, number, "name")
            if name == _RESERVED_EVENT_NAME:
                self._note(
                    "BAD_VALUE",
                    f"{excerpt(name)} stands for every domain event where subscribers name what they want",
                    here,
                    hint="say what happened, as in order.paid",
                )
            elif seen.setdefault(name, number) != number:
                self._note(
                    "BAD_VALUE",
                    f"the event {excerpt(name)} is named twice",
                    here,
                    hint="keep one; `condition: always` publishes it however a try ends",
                )

    def _environments(self) -> None:
        for environment, override in _items(self._data.get("environments")):
            for number, change in _numbered(override.get("steps")):
                name = change.get("name")
                if isinstance(name, str) and name != ALL_STEPS and name not in self._by_name:
                    self._note(
                        "MISSING_DEP_REF",
                        f"no step is called {excerpt(name)}",
                        ("environments", environment, "steps", number, "name"),
                        hint=partial(self._suggest, name),
                    )
                elif isinstance(name, str) and name != ALL_STEPS:
                    self._change(self._by_name[name], change, ("environments", environment, "steps", number))

    def _change(self, step: _Step, change: dict[str, Any], location: Location) -> None:
        """What an environment changes of one step."""
        if "batch_config" in change:
            self._only_batchable(step, (*location, "batch_config"))
        for key in ("compensation", "wait_for_signal"):
            if key in change and key not in step.data:
                self._note(
                    "BAD_VALUE",
                    f"{excerpt(step.name)} has no {key} that could differ",
                    (*location, key),
                    hint=f"give the step itself a {key}, or take this out",
                )
        self._gates(step, change, location)
        for wait, keys in _IGNORED_BY_WAIT.items():
            if wait in step.data:
                self._ignored(step, change, location, (*keys, "handler"))
                break


def _step(number: int, data: dict[str, Any]) -> _Step:
    name = data.get("name")
    kind = data.get("type", "standard")
    dependencies = data.get("dependencies")
    return _Step(
        number=number,
        name=name if isinstance(name, str) else "",
        type=kind if isinstance(kind, str) else "",
        dependencies=[
            (position, each)
            for position, each in enumerate(dependencies if isinstance(dependencies, list) else [])
            if isinstance(each, str)
        ],
        data=data,
    )


def _reachable(sources: list[int], dependents: list[list[int]]) -> set[int]:
    """Every step behind one of `sources`."""
    found: set[int] = set()
    queue = deque(sources)
    while queue:
        for dependent in dependents[queue.popleft()]:
            if dependent not in found:
                found.add(dependent)
                queue.append(dependent)
    return found


def _numbered(value: object) -> list[tuple[int, dict[str, Any]]]:
    if not isinstance(value, list):
        return []
    return [(number, item) for number, item in enumerate(value) if isinstance(item, dict)]


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for _, item in _numbered(value)]


def _items(value: object) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict):
        return []
    return [(name, item) for name, item in value.items() if isinstance(item, dict)]
