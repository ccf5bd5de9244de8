"""How a handler is called: its parameters, looked at once, filled for every try."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
import pydantic

from .context import StepContext
from .decorators import HandlerNotes, notes_of
from .errors import ConfigurationError, ValidationError
from .handlers import StepHandler
from .roles import with_role

_CONTEXT_NAMES: Final = ("context", "_context")
#: Most violations that a failure lists.
_VIOLATIONS_MAX: Final = 50

_Fill = Callable[[StepContext], Any]


class HandlerDefinitionError(ConfigurationError):
    """A handler cannot be called as it is written; said when it is registered, not when it is needed."""


class Invocation:
    """A handler that is ready to be called with a context."""

    __slots__ = ("_call", "description", "is_async", "kind", "name", "reads", "source", "target", "version")

    def __init__(
        self,
        *,
        name: str,
        version: str,
        kind: str,
        target: object,
        is_async: bool,
        call: Callable[[StepContext], Any],
        reads: frozenset[str] | None = None,
    ) -> None:
        self.name = name
        #: The steps whose results it can read; `None` where it gets the context, and with it all of them.
        self.reads = reads
        self.version = version
        #: `function`, `class` or `object`.
        self.kind = kind
        #: What was registered.
        self.target = target
        self.is_async = is_async
        self.source = source_of(target)
        self.description = (inspect.getdoc(target) or "").partition("\n")[0]
        self._call = call

    def __call__(self, context: StepContext) -> Any:
        """Call the handler; gives its value, or a coroutine where it is async.

        Raises `ValidationError` where input or dependencies do not fit what the handler declares.
        """
        return self._call(context)


def source_of(target: object) -> str:
    """Where a handler is written: `module:qualified name`."""
    holder = target if hasattr(target, "__qualname__") else type(target)
    return f"{getattr(holder, '__module__', '?')}:{getattr(holder, '__qualname__', repr(holder))}"


def invocation_of(target: Any, *, name: str | None = None, method: str | None = None) -> Invocation:
    """Prepare a function, a `StepHandler` class or an object of one.

    `name` wins over the handler's own. `method` is the template's; without it `call`, or the first public
    method (not of a mixin) of a class that has no `call`. Raises `HandlerDefinitionError` naming what is wrong with it.
    """
    if isinstance(target, type):
        return _of_class(target, name, method or _main_method(target))
    if isinstance(target, StepHandler):
        return _of_object(target, name, method or _main_method(type(target)))
    if callable(target):
        return _of_function(target, name, method or "call")
    raise HandlerDefinitionError(f"{target!r} is no handler: neither a function nor a StepHandler")


def _of_class(target: type, name: str | None, method: str) -> Invocation:
    if not issubclass(target, StepHandler):
        raise HandlerDefinitionError(f"{source_of(target)} is a class but no subclass of StepHandler")
    name = _named(name or target.handler_name, target, "set handler_name")
    try:
        inspect.signature(target).bind()
    except TypeError as error:
        raise HandlerDefinitionError(
            f"handler {name!r} ({source_of(target)}) needs arguments to be made ({error}); register an object"
        ) from None
    function = _method_of(target, name, method)

    def call(context: StepContext) -> Any:
        return getattr(target(), method)(context)

    return Invocation(
        name=name,
        version=target.handler_version,
        kind="class",
        target=target,
        is_async=inspect.iscoroutinefunction(function),
        call=call,
    )


def _of_object(target: StepHandler, name: str | None, method: str) -> Invocation:
    name = _named(name or target.handler_name, target, "set handler_name")
    function = _method_of(target, name, method)
    return Invocation(
        name=name,
        version=target.handler_version,
        kind="object",
        target=target,
        is_async=inspect.iscoroutinefunction(function),
        call=function,
    )


def _main_method(target: type) -> str:
    if getattr(target, "call", None) is not StepHandler.call:
        return "call"
    for base in target.__mro__[: target.__mro__.index(StepHandler)]:
        if not issubclass(base, StepHandler):
            continue  # a mixin: its methods are for the handler's own use
        for attribute, value in vars(base).items():
            if not attribute.startswith("_") and inspect.isfunction(value):
                return attribute
    return "call"


def _method_of(target: Any, name: str, method: str) -> Callable[..., Any]:
    function = None if method.startswith("_") else getattr(target, method, None)
    base = getattr(function, "__func__", function) is StepHandler.call
    if base or not callable(function):
        raise HandlerDefinitionError(f"handler {name!r} ({source_of(target)}) does not define {method!r}")
    return cast("Callable[..., Any]", function)


def _of_function(target: Callable[..., Any], name: str | None, method: str) -> Invocation:
    notes = notes_of(target) or HandlerNotes()
    name = _named(name or notes.name, target, "give a name, or use @step_handler")
    if method != "call":
        raise HandlerDefinitionError(
            f"handler {name!r} ({source_of(target)}) is a function and has no method {method!r}"
        )
    fills, passes_context = _fills(target, name, notes)

    if passes_context:
        call: Callable[[StepContext], Any] = target
    elif not fills:

        def call(_context: StepContext) -> Any:
            return target()

    else:

        def call(context: StepContext) -> Any:
            return target(**{parameter: fill(context) for parameter, fill in fills})

    gets_context = passes_context or any(fill is _the_context for _, fill in fills)
    function = target if inspect.isroutine(target) else type(target).__call__
    is_async = inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(function)
    if notes.role is not None:
        call = with_role(notes.role, call, is_async=is_async)
    return Invocation(
        name=name,
        version=notes.version,
        kind="function",
        target=target,
        is_async=is_async,
        call=call,
        reads=None
        if gets_context
        else frozenset(dependency.step for dependency in notes.dependencies.values()),
    )


def _named(name: str | None, target: object, remedy: str) -> str:
    if not isinstance(name, str) or not name:
        raise HandlerDefinitionError(f"{source_of(target)} has no handler name: {remedy}")
    return name


def _fills(
    target: Callable[..., Any], name: str, notes: HandlerNotes
) -> tuple[tuple[tuple[str, _Fill], ...], bool]:
    """What fills each parameter, and whether the context alone can be passed by position."""
    where = f"handler {name!r} ({source_of(target)})"
    parameters = inspect.signature(target).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    declared = _declared(notes)
    unknown = [] if takes_any else [name for name in declared if name not in parameters]
    if unknown:
        raise HandlerDefinitionError(f"{where} has no parameter {unknown[0]!r}, which its decorators fill")
    fills: list[tuple[str, _Fill]] = []
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        fill = declared.pop(parameter.name, None) or notes.extras.get(parameter.name)
        if fill is None and parameter.name in _CONTEXT_NAMES:
            fill = _the_context
        elif fill is None and parameter.default is not parameter.empty:
            continue
        elif fill is None and len(parameters) == 1 and notes_of(target) is None:
            # A plain function of one parameter, whatever its name, gets the context.
            return (), True
        elif fill is None:
            raise HandlerDefinitionError(
                f"{where}: nothing fills its parameter {parameter.name!r}; declare it with @depends_on or"
                " @inputs, call it context, or give it a default"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise HandlerDefinitionError(
                f"{where}: its parameter {parameter.name!r} cannot be passed by name"
            )
        if isinstance(fill, _Key) and parameter.default is not parameter.empty:
            fill = _Key(fill.key, parameter.default)
        fills.append((parameter.name, fill))
    fills += declared.items()
    return tuple(fills), [fill for _, fill in fills] == [_the_context] and len(parameters) == 1


def _declared(notes: HandlerNotes) -> dict[str, _Fill]:
    declared: dict[str, _Fill] = {}
    for parameter, dependency in notes.dependencies.items():
        declared[parameter] = (
            _Result(dependency.step)
            if dependency.type is None
            else _TypedResult(dependency.step, dependency.type)
        )
    for key in notes.input_keys:
        declared[key] = _Key(key, None)
    if notes.input_model is not None:
        declared["inputs"] = _Model(notes.input_model)
    return declared


def _the_context(context: StepContext) -> StepContext:
    return context


@dataclasses.dataclass(frozen=True, slots=True)
class _Key:
    key: str
    default: Any

    def __call__(self, context: StepContext) -> Any:
        return context.input_data.get(self.key, self.default)


@dataclasses.dataclass(frozen=True, slots=True)
class _Result:
    step: str

    def __call__(self, context: StepContext) -> Any:
        return context.get_dependency_result(self.step)


class _Model:
    __slots__ = ("_convert",)

    def __init__(self, model: type) -> None:
        self._convert = converter(model)

    def __call__(self, context: StepContext) -> Any:
        return convert(self._convert, context.input_data, "the task's context", "INPUT_INVALID")


class _TypedResult:
    __slots__ = ("_convert", "_step")

    def __init__(self, step: str, kind: type) -> None:
        self._step = step
        self._convert = converter(kind)

    def __call__(self, context: StepContext) -> Any:
        if not context.has_dependency_result(self._step):
            raise ValidationError(
                f"step {self._step!r} has no result: it is not among the ancestors of {context.step_name!r},"
                " or was resolved without one",
                error_code="DEPENDENCY_MISSING",
                metadata={"dependency": self._step, "available": context.get_dependency_result_keys()},
            )
        return convert(
            self._convert,
            context.get_dependency_result(self._step),
            f"the result of step {self._step!r}",
            "DEPENDENCY_INVALID",
        )


def converter(kind: type) -> Callable[[Any], Any]:
    """What makes a value of JSON one of `kind`: a pydantic model, msgspec struct, dataclass or plain type."""
    if issubclass(kind, pydantic.BaseModel):
        return kind.model_validate
    if issubclass(kind, msgspec.Struct):
        return lambda value: msgspec.convert(value, kind, strict=False)
    try:
        return pydantic.TypeAdapter(kind).validate_python
    except pydantic.PydanticUserError as error:
        raise HandlerDefinitionError(f"{kind!r} cannot be made from JSON: {error}") from None


def convert(make: Callable[[Any], Any], value: Any, what: str, error_code: str) -> Any:
    """Convert, or raise `ValidationError` that lists every violation as `{path, message}`."""
    try:
        return make(value)
    except pydantic.ValidationError as error:
        violations = [
            {"path": "/" + "/".join(str(part) for part in problem["loc"]), "message": problem["msg"]}
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        ]
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        violations = [
            {"path": "/" + path.rstrip("`").strip(".").replace(".", "/"), "message": text},
        ]
    listed = "; ".join(f"{one['path']}: {one['message']}" for one in violations[:5])
    raise ValidationError(
        f"{what} does not fit: {listed}",
        error_code=error_code,
        metadata={"violations": violations[:_VIOLATIONS_MAX], "violations_count": len(violations)},
    )
