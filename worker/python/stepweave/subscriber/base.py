"""Subscribers as classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from stepweave.errors import ConfigurationError

from .patterns import Pattern


class BaseSubscriber:
    """Base of subscribers that are classes.

        class OrderTracking(BaseSubscriber):
            subscribe_to = ("task.completed", "step.failed")

            def handle_task_completed(self, event): ...
            def handle_step_failed(self, event): ...

        asyncio.run(OrderTracking().run())

    An event goes to `handle_<type>` with its dot as an underscore, or to `handle_event` where there is none. So does
    a domain event: `domain.order.paid` to `handle_domain_order_paid`.
    Handlers may be plain or async. `name` says whose progress is remembered; by default the class's name in
    small letters with underscores.
    """

    #: Event types and patterns such as `task.*`.
    subscribe_to: ClassVar[str | Sequence[str]] = ()
    #: Only events of this namespace; None: of all.
    namespace: ClassVar[str | None] = None
    name: ClassVar[str] = ""

    def subscriber_name(self) -> str:
        """The durable name."""
        return self.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def handlers(self) -> list[tuple[Pattern, Callable[..., Any]]]:
        """Which method takes which events; raises `ConfigurationError` where a type has no method."""
        texts = [self.subscribe_to] if isinstance(self.subscribe_to, str) else list(self.subscribe_to)
        if not texts:
            raise ConfigurationError(f"{type(self).__name__} subscribes to nothing: set subscribe_to")
        catch_all = getattr(self, "handle_event", None)
        found: dict[str, tuple[Pattern, Callable[..., Any]]] = {}
        for text in texts:
            pattern = Pattern(text)
            if pattern.of_domain:
                found[text] = (pattern, self._method_for(pattern))
                continue
            methods = {one: getattr(self, method_name(one), None) for one in sorted(pattern.types)}
            if catch_all is None and not any(methods.values()):
                raise ConfigurationError(
                    f"{type(self).__name__} subscribes to {text!r} but has neither"
                    f" {method_name(min(pattern.types))} nor handle_event"
                )
            for event_type, method in methods.items():
                if method is not None:
                    found[event_type] = (Pattern(event_type), method)
                elif catch_all is not None:
                    found[event_type] = (Pattern(event_type), catch_all)
        return list(found.values())

    def _method_for(self, pattern: Pattern) -> Callable[..., Any]:
        """The method that takes domain events of a name."""
        named = "handle_event" if pattern.is_glob else method_name(pattern.text)
        method: Callable[..., Any] | None = getattr(self, named, None) or getattr(self, "handle_event", None)
        if method is None:
            raise ConfigurationError(
                f"{type(self).__name__} subscribes to {pattern.text!r} but has neither {named} nor handle_event"
                if named != "handle_event"
                else f"{type(self).__name__} subscribes to {pattern.text!r} but has no handle_event"
            )
        return method

    async def run(self, nats_url: str | Sequence[str] | None = None, **options: Any) -> None:
        """Work until SIGTERM or SIGINT; `options` are those of `Subscriber`."""
        from .subscriber import Subscriber

        subscriber = Subscriber(self.subscriber_name(), nats_url=nats_url, **options)
        subscriber.add(self)
        await subscriber.run()


def method_name(event_type: str) -> str:
    """The method that takes events of a type: `step.failed` → `handle_step_failed`."""
    return "handle_" + event_type.replace(".", "_").replace("-", "_")
