"""Which handlers there are, and how a name of a template finds one."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from .decorators import decorated_handlers, notes_of
from .errors import ConfigurationError
from .handlers import StepHandler
from .invocation import Invocation, invocation_of
from .method_names import check_method
from .resolvers import (
    HandlerNotFound,
    HandlerResolver,
    ImportResolver,
    Resolver,
    ResolverChain,
    ResolverNotFound,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "RESOLVED_MAX",
    "DuplicateHandler",
    "HandlerInfo",
    "HandlerNotFound",
    "HandlerResolver",
    "Registry",
    "Resolver",
    "ResolverNotFound",
]

#: Entry points of this group name handlers, or modules that hold some.
ENTRY_POINT_GROUP: Final = "stepweave.handlers"

#: Most resolved names that are kept; what is named less often is looked up again.
RESOLVED_MAX: Final = 1_024


class DuplicateHandler(ConfigurationError):
    """Two handlers have the same name."""


@dataclass(frozen=True, slots=True)
class HandlerInfo:
    """One registered handler, for lists."""

    name: str
    version: str
    #: `function`, `class` or `object`.
    kind: str
    is_async: bool
    #: `module:qualified name`.
    source: str
    #: The first line of its docstring.
    description: str


class Registry:
    """Handlers by name, and a chain of resolvers for names that nobody registered.

    A name is looked up among the registered handlers, then by the resolvers that were added (lower priorities
    first), then – only where it is switched on – by import (`package.module.Class` or `module:function`). A
    template's `handler.resolver` picks one resolver by name; `registered` and `import` are such names too.
    Safe to use from several threads.
    """

    def __init__(
        self,
        handlers: Iterable[Any] = (),
        *,
        import_from: Iterable[str] = (),
        allow_imports: bool = False,
    ) -> None:
        """Handlers to register, and what templates may name by import.

        `import_from`: packages whose public members may be named; none by default. `allow_imports`: subclasses
        of `StepHandler` and decorated functions of any module may be named too. Whoever may register a
        template can then have any module imported.
        """
        self._lock = threading.RLock()
        self._handlers: dict[str, Invocation] = {}
        self._resolved: dict[tuple[str, str, str | None], Invocation] = {}
        self._chain = ResolverChain(self._registered, ImportResolver(import_from, anywhere=allow_imports))
        for handler in handlers:
            self.register(handler)

    @classmethod
    def of_decorated(cls) -> Registry:
        """Every handler that `@step_handler` was put on so far in this process."""
        return cls(decorated_handlers())

    # -- filling ---------------------------------------------------------------------------------

    def register(self, handler: Any, name: str | None = None) -> str:
        """Add a function, a `StepHandler` class or an object of one; returns its name.

        The same handler may be registered again; a function that was defined anew in the same place replaces
        the old one. Raises `DuplicateHandler` and `HandlerDefinitionError`.
        """
        invocation = invocation_of(handler, name=name)
        with self._lock:
            known = self._handlers.get(invocation.name)
            if known is not None and known.target is not handler and known.source != invocation.source:
                raise DuplicateHandler(
                    f"two handlers are named {invocation.name!r}: {known.source} and {invocation.source}"
                )
            self._handlers[invocation.name] = invocation
            self._resolved.clear()
        return invocation.name

    def discover(self, *modules: str | ModuleType) -> list[str]:
        """Import modules, packages with everything below them, and register the handlers found there.

        Returns the names. Raises `ConfigurationError` where a module cannot be imported; the cause tells why.
        """
        found: dict[str, None] = {}
        for root in modules:
            for module in _tree(root):
                for member in list(vars(module).values()):
                    if _is_handler(member):
                        found[self.register(member)] = None
        return list(found)

    def load_entry_points(self, group: str = ENTRY_POINT_GROUP) -> list[str]:
        """Register what installed packages offer: entry points that are handlers, or modules with handlers."""
        found: dict[str, None] = {}
        for entry_point in importlib.metadata.entry_points(group=group):
            try:
                loaded = entry_point.load()
            except Exception as error:
                raise ConfigurationError(
                    f"entry point {entry_point.name!r} of {group} ({entry_point.value}) cannot be loaded:"
                    f" {type(error).__name__}: {error}"
                ) from error
            if isinstance(loaded, ModuleType):
                found.update(dict.fromkeys(self.discover(loaded)))
            else:
                found[self.register(loaded)] = None
        return list(found)

    def add_resolver(
        self,
        name: str | HandlerResolver | Resolver,
        resolver: HandlerResolver | Resolver | None = None,
        *,
        priority: int | None = None,
    ) -> None:
        """Ask a resolver for names that are not registered; templates pick it alone by its name.

            registry.add_resolver("ruby", lambda name: CLASSES.get(name.rpartition("::")[2]))
            registry.add_resolver(RubyNames())      # an object with name, resolve(handler) …

        It may be a function or a `HandlerResolver`. Lower priorities are asked first, 100 is the default. It is
        called on the worker's event loop, so it must be quick; what it gives is kept for the `RESOLVED_MAX`
        names that were looked up last. A resolver of the same name is replaced.
        """
        with self._lock:
            self._chain.add(name, resolver, priority=priority)
            self._resolved.clear()

    @property
    def resolvers(self) -> list[str]:
        """The names of the resolvers, in the order in which they are asked."""
        return self._chain.names

    # -- looking up ------------------------------------------------------------------------------

    def __contains__(self, name: str) -> bool:
        return name in self._handlers

    def __len__(self) -> int:
        return len(self._handlers)

    @property
    def names(self) -> list[str]:
        """The names of the registered handlers, sorted."""
        with self._lock:
            return sorted(self._handlers)

    def list_handlers(self) -> list[HandlerInfo]:
        """What is registered, by name."""
        with self._lock:
            invocations = [self._handlers[name] for name in sorted(self._handlers)]
        return [
            HandlerInfo(one.name, one.version, one.kind, one.is_async, one.source, one.description)
            for one in invocations
        ]

    @property
    def empty(self) -> bool:
        """Whether no name can be resolved at all."""
        return not self._handlers and self._chain.only_registered

    @property
    def only_registered(self) -> bool:
        """Whether it has no handlers but those in `names`."""
        return self._chain.only_registered

    @property
    def only_threads(self) -> bool:
        """Whether every handler is a plain function or method, so that threads are what limits them."""
        with self._lock:
            return (
                bool(self._handlers)
                and self._chain.only_registered
                and not any(one.is_async for one in self._handlers.values())
            )

    def resolve(self, name: str, *, method: str = "call", resolver: str | None = None) -> Invocation:
        """The handler of a name, ready to be called.

        Raises `HandlerNotFound`, `ResolverNotFound`, `HandlerMethodNotFound`, or `HandlerDefinitionError` where
        it is there but cannot be called.
        """
        key = (name, method, resolver)
        known = self._resolved.get(key)
        if known is None:
            with self._lock:
                known = self._resolve(name, method, resolver)
                while len(self._resolved) >= RESOLVED_MAX:
                    del self._resolved[next(iter(self._resolved))]
                self._resolved[key] = known
        return known

    def _resolve(self, name: str, method: str, resolver: str | None) -> Invocation:
        target = self._chain.find(name, resolver)
        check_method(target, name, method)
        return invocation_of(target, name=name, method=method)

    def _registered(self, name: str) -> Any:
        invocation = self._handlers.get(name)
        return None if invocation is None else invocation.target


def _is_handler(member: object) -> bool:
    if isinstance(member, type):
        return issubclass(member, StepHandler) and bool(member.handler_name)
    if isinstance(member, StepHandler):
        return bool(member.handler_name)
    notes = notes_of(member)
    return notes is not None and notes.name is not None


def _tree(root: str | ModuleType) -> Iterable[ModuleType]:
    """A module, and where it is a package everything below it."""
    module = _import(root) if isinstance(root, str) else root
    yield module
    path = getattr(module, "__path__", None)
    if path is None:
        return
    for info in pkgutil.walk_packages(path, f"{module.__name__}.", onerror=_import):
        last = info.name.rpartition(".")[2]
        # Tests beside the handlers need what only a development machine has.
        if last not in ("__main__", "conftest") and not last.startswith("test_"):
            yield _import(info.name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigurationError(
            f"the module {name!r} with handlers cannot be imported: {type(error).__name__}: {error}"
        ) from error
