"""Which methods of a handler a template's `handler.method` may name."""

from __future__ import annotations

import inspect
from typing import Any, Final

from .handlers import StepHandler
from .invocation import HandlerDefinitionError, source_of

_SDK: Final = __name__.partition(".")[0]
#: How many methods a refusal lists.
_METHODS_MAX: Final = 20


class HandlerMethodNotFound(HandlerDefinitionError):
    """A template names a method that the handler does not have, or not for templates."""

    def __init__(self, message: str, methods: list[str]) -> None:
        super().__init__(message)
        #: Those that may be named.
        self.methods = methods


def callable_methods(target: Any) -> list[str]:
    """The methods that a template may name, the handler's own first.

    Those that the author's classes define: public, and to be called with the context alone. The helpers of the
    SDK (`success`, `get` …) are none. Of a function, and of any other object: `call`, which stands for itself.
    """
    kind = target if isinstance(target, type) else type(target)
    if not issubclass(kind, StepHandler):
        return ["call"]
    helpers = {name for base in kind.__mro__ if _is_of_sdk(base) for name in vars(base) if name != "call"}
    found: dict[str, None] = {}
    for base in kind.__mro__:
        if not _is_of_sdk(base):
            for name in vars(base):
                if not name.startswith("_") and name not in helpers and _takes_context(kind, name):
                    found[name] = None
    inherited = kind.call is not StepHandler.call and _takes_context(kind, "call")
    if inherited:
        found.setdefault("call")
    return list(found)


def check_method(target: Any, name: str, method: str) -> None:
    """Raise `HandlerMethodNotFound`, naming what there is, unless `method` may be named."""
    methods = callable_methods(target)
    if method in methods:
        return
    where = f"handler {name!r} ({source_of(target)})"
    listed = ", ".join(methods[:_METHODS_MAX]) + (", …" if len(methods) > _METHODS_MAX else "")
    if not isinstance(target, type) and not isinstance(target, StepHandler):
        raise HandlerMethodNotFound(f"{where} is a function and has no method {method!r}", methods)
    if method.startswith("_"):
        reason = f"keeps {method!r} to itself, as its underscore says"
    elif callable(getattr(target, method, None)) and method != "call":
        reason = f"does not offer {method!r}: it is a helper, or does not take the context alone"
    else:
        reason = f"does not define {method!r}"
    raise HandlerMethodNotFound(f"{where} {reason}; it has: {listed or 'none'}", methods)


def _is_of_sdk(base: type) -> bool:
    return base is object or base.__module__.partition(".")[0] == _SDK


def _takes_context(kind: type, name: str) -> bool:
    raw = inspect.getattr_static(kind, name)
    if isinstance(raw, staticmethod | classmethod):
        arguments, function = 1, getattr(kind, name)
    elif inspect.isfunction(raw):
        arguments, function = 2, raw
    else:
        # What is no function, such as the work of a decorator, shows what it takes only when it is called.
        return not isinstance(raw, type | property) and callable(getattr(kind, name))
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    return True
