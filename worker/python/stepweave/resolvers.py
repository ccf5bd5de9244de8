"""How a handler's name finds the handler: a chain of resolvers, and templates that name one of them.

    registered ─▶ custom ones, lowest priority first ─▶ import (only where it is switched on)

A template's `handler.resolver` names one of the chain, which is then asked alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .decorators import notes_of
from .errors import ConfigurationError
from .handlers import StepHandler
from .invocation import HandlerDefinitionError, source_of

#: A naming scheme of its own: gives the handler (function, class or object) of a name, or None.
Resolver = Callable[[str], Any]

REGISTERED: Final = "registered"
IMPORT: Final = "import"
PRIORITY_DEFAULT: Final = 100


class HandlerNotFound(ConfigurationError):
    """No handler of this name is registered here; another worker may have it."""


class ResolverNotFound(HandlerNotFound):
    """A template names a resolver that this worker does not have."""


class HandlerResolver(Protocol):
    """A resolver as an object.

    It may besides have `priority` (lower ones are asked first, 100 where it has none) and `can_resolve(handler)`,
    which says quickly whether `resolve` is worth asking.
    """

    @property
    def name(self) -> str:
        """What templates call it in `handler.resolver`."""

    def resolve(self, handler: str, /) -> Any:
        """The function, class or object of a handler's name; None where it knows none."""


@dataclass(frozen=True, slots=True)
class _Custom:
    name: str
    resolve: Resolver
    can_resolve: Callable[[str], object] | None
    priority: int

    def __call__(self, handler: str) -> Any:
        if self.can_resolve is not None and not self.can_resolve(handler):
            return None
        return self.resolve(handler)


class ResolverChain:
    """The resolvers of a registry in the order in which they are asked."""

    def __init__(self, registered: Resolver, imported: ImportResolver) -> None:
        self._registered = registered
        self._imported = imported
        self._custom: list[_Custom] = []

    @property
    def names(self) -> list[str]:
        """What a template's `handler.resolver` may be, in the order of the chain."""
        return [REGISTERED, *(one.name for one in self._custom), *([IMPORT] if self._imported else [])]

    @property
    def only_registered(self) -> bool:
        """Whether no name can be found but the registered ones."""
        return not (self._custom or self._imported)

    def add(
        self, name: str | HandlerResolver | Resolver, resolver: Any = None, *, priority: int | None = None
    ) -> str:
        """Add a resolver (see `Registry.add_resolver`); gives the name it goes by."""
        if resolver is None:
            name, resolver = _name_of(name), name
        if not isinstance(name, str) or not name:
            raise TypeError(f"a resolver's name is a text, not {name!r}")
        if name in (REGISTERED, IMPORT):
            raise ValueError(f"{name!r} is the name of a resolver that is always there")
        resolve = getattr(resolver, "resolve", resolver)
        can_resolve = getattr(resolver, "can_resolve", None)
        if not callable(resolve) or not (can_resolve is None or callable(can_resolve)):
            raise TypeError(
                f"{resolver!r} is no resolver: neither a function nor an object with resolve(handler)"
            )
        if priority is None:
            priority = getattr(resolver, "priority", PRIORITY_DEFAULT)
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise TypeError(f"the priority of resolver {name!r} is a whole number, not {priority!r}")
        others = [one for one in self._custom if one.name != name]
        # Equal priorities stay in the order in which they were added.
        self._custom = sorted(
            [*others, _Custom(name, resolve, can_resolve, priority)], key=lambda one: one.priority
        )
        return name

    def find(self, handler: str, resolver: str | None = None) -> Any:
        """What a name stands for. Raises `HandlerNotFound`, and `ResolverNotFound` for an unknown `resolver`."""
        for ask in self._chain(resolver):
            target = ask(handler)
            if target is not None:
                return target
        through = "" if resolver is None else f" for resolver {resolver!r}"
        raise HandlerNotFound(f"no handler is named {handler!r}{through}")

    def _chain(self, resolver: str | None) -> list[Resolver]:
        chain: list[Resolver] = [self._registered, *self._custom]
        if self._imported:
            chain.append(self._imported)
        if resolver is None:
            return chain
        for name, ask in zip(self.names, chain, strict=True):
            if name == resolver:
                return [ask]
        known = self.names if self._imported else [*self.names, f"{IMPORT} (not switched on)"]
        raise ResolverNotFound(f"no resolver is named {resolver!r}; here are: {', '.join(known)}")


class ImportResolver:
    """Names that are places in Python: `package.module.Class` or `module:function`.

    Off unless told otherwise, because whoever may register a template then says what is imported. Under
    `packages` any public function or handler class may be named; with `anywhere` every importable module may,
    but only what was made to be a handler in it: subclasses of `StepHandler` and decorated functions.
    """

    def __init__(self, packages: Iterable[str] = (), *, anywhere: bool = False) -> None:
        self._packages = tuple(packages)
        self._anywhere = anywhere

    def __bool__(self) -> bool:
        return self._anywhere or bool(self._packages)

    def __call__(self, name: str) -> Any:
        """The member that a name stands for; None where there is none, or it may not be named."""
        module_name, _, attribute = name.rpartition(":") if ":" in name else name.rpartition(".")
        trusted = any(
            module_name == package or module_name.startswith(f"{package}.") for package in self._packages
        )
        if not (trusted or self._anywhere) or not attribute or attribute.startswith("_"):
            return None
        if not all(part.isidentifier() for part in module_name.split(".")):
            return None
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and (
                module_name == error.name or module_name.startswith(f"{error.name}.")
            ):
                return None
            # The module is there, but something that it imports is not.
            raise
        target = getattr(module, attribute, None)
        if target is None:
            return None
        # What a module only imported for its own use is not for templates to name.
        if getattr(target, "__module__", module_name) != module_name and notes_of(target) is None:
            raise HandlerDefinitionError(f"{name} is not defined there but in {source_of(target)}")
        if not trusted and not _is_made_for_it(target):
            raise HandlerDefinitionError(
                f"{name} was not made to be a handler: put @step_handler on it, or derive it from StepHandler"
            )
        return target


def _is_made_for_it(target: object) -> bool:
    kind = target if isinstance(target, type) else type(target)
    return issubclass(kind, StepHandler) or notes_of(target) is not None


def _name_of(resolver: Any) -> Any:
    return getattr(resolver, "name", None) or getattr(resolver, "__name__", None)
