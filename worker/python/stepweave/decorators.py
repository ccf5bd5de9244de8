"""Handlers as functions.

    @step_handler("ecommerce_process_payment")
    @depends_on(cart=("validate_cart", ValidatedCart))
    @inputs(OrderInput)
    async def process_payment(cart: ValidatedCart, inputs: OrderInput, context):
        ...

The decorators only take notes on the function and give the same function back: their order does not matter, and
tests call it like any other function. `decision_handler`, `batch_analyzer` and `batch_worker` take the place of
`step_handler` on functions that shape the workflow (see `decisions` and `batches`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, overload

from .batches import AnalyzerRole, WorkerRole, the_batch
from .context import StepContext
from .decisions import DecisionRole
from .handlers import StepHandler
from .roles import HandlerRole

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "__stepweave__"
_lock = threading.Lock()


class Dependency(NamedTuple):
    """A parameter's source: the result of `step`, converted to `type` where one is given."""

    step: str
    type: type | None


@dataclass(slots=True)
class HandlerNotes:
    """What the decorators noted about a function."""

    name: str | None = None
    version: str = "1.0.0"
    dependencies: dict[str, Dependency] = field(default_factory=dict)
    #: The model that the parameter `inputs` gets.
    input_model: type | None = None
    #: Keys of the task's context that arrive as parameters of the same name.
    input_keys: tuple[str, ...] = ()
    #: Parameters that are filled where the function has them; none of them reads results of other steps.
    extras: dict[str, Callable[[StepContext], Any]] = field(default_factory=dict)
    #: Its part in the workflow's shape.
    role: HandlerRole | None = None


#: Everything that `step_handler` and its kind were put on, in order: what a worker without a registry serves.
_decorated: list[Any] = []


def decorated_handlers() -> list[Any]:
    """Every function and class that `step_handler` or one of its kind was put on so far in this process."""
    with _lock:
        return list(_decorated)


def notes_of(handler: object) -> HandlerNotes | None:
    """What the decorators noted about a function; None where it has none of them."""
    notes = getattr(handler, _ATTRIBUTE, None)
    return notes if isinstance(notes, HandlerNotes) else None


def _notes_for(function: Callable[..., Any], decorator: str) -> HandlerNotes:
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"@{decorator} goes on a function, not on {function!r}")
    notes = notes_of(function)
    if notes is None:
        notes = HandlerNotes()
        setattr(function, _ATTRIBUTE, notes)
    return notes


def step_handler(name: str, version: str = "1.0.0") -> Callable[[F], F]:
    """Make a function, or a subclass of `StepHandler`, the handler of this name.

    The parameters of a function are filled by name: `context` (or `_context`), what `depends_on` and `inputs`
    declare, or their defaults. A plain function runs in a thread, an async one on the event loop.
    """
    _check_name(name, "step_handler")

    def note(handler: F) -> F:
        if isinstance(handler, type):
            if not issubclass(handler, StepHandler):
                raise TypeError(f"{handler.__qualname__} is a handler class but no subclass of StepHandler")
            handler.handler_name = name
            handler.handler_version = version
            _remember(handler)
        else:
            _name(handler, "step_handler", name, version)
        return handler

    return note


def decision_handler(name: str, version: str = "1.0.0") -> Callable[[F], F]:
    """Make a function the handler of a step of `type: decision`.

    It returns `Decision.route(steps, ...)` or `Decision.skip(reason, ...)`, or raises; anything else fails the step
    for good. Its parameters are filled as those of `step_handler` are. A class is a `DecisionHandler` instead.
    """
    _check_name(name, "decision_handler")

    def note(function: F) -> F:
        _name(function, "decision_handler", name, version).role = DecisionRole()
        return function

    return note


def batch_analyzer(name: str, worker_template: str | None = None, version: str = "1.0.0") -> Callable[[F], F]:
    """Make a function the handler of a step of `type: batchable`.

    It returns `BatchConfig(total_items, batch_size)`, `BatchConfig.from_cursors([...])` or
    `BatchConfig.none(reason)`, or raises; anything else fails the step for good. `worker_template` names the
    `batch_worker` step that each batch is made from; without it the template's `batch_config` does.
    """
    _check_name(name, "batch_analyzer")
    if worker_template is not None and (not isinstance(worker_template, str) or not worker_template):
        raise TypeError(
            f"@batch_analyzer({name!r}, worker_template=…) is the name of a step, not {worker_template!r}"
        )

    def note(function: F) -> F:
        notes = _name(function, "batch_analyzer", name, version)
        notes.role = AnalyzerRole(worker_template or "")
        return function

    return note


def batch_worker(name: str, version: str = "1.0.0") -> Callable[[F], F]:
    """Make a function the handler of a step of `type: batch_worker`; its parameter `batch_context` is the batch.

    The placeholder that stands for no batches is completed without calling the function.
    """
    _check_name(name, "batch_worker")

    def note(function: F) -> F:
        notes = _name(function, "batch_worker", name, version)
        notes.role = WorkerRole()
        notes.extras["batch_context"] = the_batch
        return function

    return note


def _check_name(name: object, decorator: str) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"@{decorator} needs the handler's name: @{decorator}('charge_card'), not {name!r}")


def _name(function: Callable[..., Any], decorator: str, name: str, version: str) -> HandlerNotes:
    notes = _notes_for(function, decorator)
    notes.name = name
    notes.version = version
    _remember(function)
    return notes


def _remember(handler: object) -> None:
    with _lock:
        _decorated.append(handler)


def depends_on(**parameters: str | tuple[str, type]) -> Callable[[F], F]:
    """Fill parameters from the results of ancestor steps.

    `cart="validate_cart"` passes the result as it is (None where there is none);
    `cart=("validate_cart", ValidatedCart)` converts it, and a result that does not fit, or is missing, fails
    the step for good.
    """
    dependencies: dict[str, Dependency] = {}
    for parameter, source in parameters.items():
        match source:
            case str() if source:
                dependencies[parameter] = Dependency(source, None)
            case (str() as step, type() as kind) if step:
                dependencies[parameter] = Dependency(step, kind)
            case _:
                raise TypeError(
                    f"@depends_on({parameter}=…) takes a step's name, or (name, type), not {source!r}"
                )

    def note(function: F) -> F:
        _notes_for(function, "depends_on").dependencies.update(dependencies)
        return function

    return note


@overload
def inputs(model: type, /) -> Callable[[F], F]: ...
@overload
def inputs(*keys: str) -> Callable[[F], F]: ...
def inputs(*sources: Any) -> Callable[[F], F]:
    """Fill parameters from the task's context.

    `@inputs(OrderInput)` validates the context against a pydantic model, dataclass or msgspec struct and passes
    it as `inputs`; what does not validate fails the step for good. `@inputs("amount", "currency")` passes
    single values under their names; a missing one is the parameter's default, or None.
    """
    model = sources[0] if len(sources) == 1 and isinstance(sources[0], type) else None
    if model is None and (not sources or not all(isinstance(key, str) and key for key in sources)):
        raise TypeError(f"@inputs takes one model class or names of keys, not {sources!r}")

    def note(function: F) -> F:
        notes = _notes_for(function, "inputs")
        if model is not None:
            notes.input_model = model
        else:
            notes.input_keys += tuple(key for key in sources if key not in notes.input_keys)
        return function

    return note
