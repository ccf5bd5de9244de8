"""Which handlers there are, and how a name of a template finds one."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from .decorators import decorated_handlers, notes_of
from .errors import ConfigurationError
from .handlers import StepHandler
from .invocation import HandlerDefinitionError, Invocation, invocation_of, source_of

#: Entry points of this group name handlers, or modules that hold some.
ENTRY_POINT_GROUP: Final = "stepweave.handlers"

#: A naming scheme of its own: gives the handler (function, class or object) of a name, or None.
Resolver = Callable[[str], Any]


class HandlerNotFound(ConfigurationError):
    """No handler of this name is registered here; another worker may have it."""


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

    A name is looked up among the registered handlers, then by the resolvers in the order in which they were
    added, then – only for modules under `import_from` – by import (`package.module.Class` or
    `module:function`). A template's `handler.resolver` picks one resolver by name; `import` and `registered`
    are such names too. Safe to use from several threads.
    """

    def __init__(self, handlers: Iterable[Any] = (), *, import_from: Iterable[str] = ()) -> None:
        """`import_from`: packages whose members may be named directly by templates; none by default."""
        self._lock = threading.RLock()
        self._handlers: dict[str, Invocation] = {}
        self._resolvers: dict[str, Resolver] = {}
        self._import_from = tuple(import_from)
        self._resolved: dict[tuple[str, str, str | None], Invocation] = {}
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

    def add_resolver(self, name: str, resolver: Resolver) -> None:
        """Ask `resolver` for names that are not registered; templates pick it alone by `name`.

        What it gives is kept: it is asked once for each name.
        """
        if name in ("registered", "import"):
            raise ValueError(f"{name!r} is the name of a resolver that is always there")
        with self._lock:
            self._resolvers[name] = resolver
            self._resolved.clear()

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
        return not (self._handlers or self._resolvers or self._import_from)

    @property
    def only_threads(self) -> bool:
        """Whether every handler is a plain function or method, so that threads are what limits them."""
        with self._lock:
            return (
                bool(self._handlers)
                and not (self._resolvers or self._import_from)
                and not any(one.is_async for one in self._handlers.values())
            )

    def resolve(self, name: str, *, method: str = "call", resolver: str | None = None) -> Invocation:
        """The handler of a name, ready to be called.

        Raises `HandlerNotFound`, or `HandlerDefinitionError` where it is there but cannot be called so.
        """
        key = (name, method, resolver)
        known = self._resolved.get(key)
        if known is None:
            with self._lock:
                known = self._resolve(name, method, resolver)
                self._resolved[key] = known
        return known

    def _resolve(self, name: str, method: str, resolver: str | None) -> Invocation:
        for step in self._chain(resolver):
            target = step(name)
            if target is not None:
                return invocation_of(target, name=name, method=method)
        raise HandlerNotFound(f"no handler is named {name!r}")

    def _chain(self, resolver: str | None) -> list[Resolver]:
        if resolver is None:
            return [self._registered, *self._resolvers.values(), self._imported]
        if resolver == "registered":
            return [self._registered]
        if resolver == "import":
            return [self._imported]
        if resolver in self._resolvers:
            return [self._resolvers[resolver]]
        raise HandlerNotFound(
            f"no resolver is named {resolver!r}; here are: "
            + ", ".join(["registered", "import", *self._resolvers])
        )

    def _registered(self, name: str) -> Any:
        invocation = self._handlers.get(name)
        return None if invocation is None else invocation.target

    def _imported(self, name: str) -> Any:
        module_name, _, attribute = name.rpartition(":") if ":" in name else name.rpartition(".")
        allowed = any(
            module_name == package or module_name.startswith(f"{package}.") for package in self._import_from
        )
        if not allowed or not attribute or not all(part.isidentifier() for part in module_name.split(".")):
            return None
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError:
            return None
        target = getattr(module, attribute, None)
        if target is None or attribute.startswith("_"):
            return None
        # What a module only imported for its own use is not for templates to name.
        if getattr(target, "__module__", module_name) != module_name and notes_of(target) is None:
            raise HandlerDefinitionError(f"{name} is not defined there but in {source_of(target)}")
        return target


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
