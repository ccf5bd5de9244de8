"""What a handler publishes, on its way into the outcome: encoded when it is said, and never a reason to fail."""

from __future__ import annotations

import threading
from typing import Any, Final

import msgspec

from stepweave_schemas.result import (
    DOMAIN_EVENT_BYTES_MAX,
    DOMAIN_EVENT_NAME_CHARS_MAX,
    DOMAIN_EVENTS_BYTES_MAX,
    DOMAIN_EVENTS_MAX,
    DomainEvent,
)

from .encoding import NotJson, encode_json
from .failures import clean_text
from .results import PublishedEvent
from .telemetry import get_logger

log = get_logger("stepweave.worker")

_PROBLEM_CHARS_MAX: Final = 1_000


class Publications:
    """The domain events of one try, in the order in which they were published; used from any thread."""

    def __init__(self) -> None:
        self._events: list[DomainEvent] = []
        self._size_bytes = 0
        self._lock = threading.Lock()

    def add(self, name: object, payload: Any) -> None:
        """Take an event. What is wrong with it is noted; beyond `DOMAIN_EVENTS_MAX` there is one note for all."""
        text = clean_text(name if isinstance(name, str) else repr(name), DOMAIN_EVENT_NAME_CHARS_MAX)
        encoded, problem = _encoded(payload)
        if not isinstance(name, str) or not name:
            problem = "the name of an event is a text"
        with self._lock:
            if len(self._events) > DOMAIN_EVENTS_MAX:
                return
            if len(self._events) == DOMAIN_EVENTS_MAX:
                problem = f"{DOMAIN_EVENTS_MAX} events of one try at most: the others are left out"
            elif not problem and self._size_bytes + len(encoded) > DOMAIN_EVENTS_BYTES_MAX:
                problem = f"the payloads of one try have {DOMAIN_EVENTS_BYTES_MAX} bytes together at most"
            if problem:
                event = DomainEvent(name=text, problem=clean_text(problem, _PROBLEM_CHARS_MAX))
            else:
                event = DomainEvent(name=text, payload=msgspec.Raw(encoded))
                self._size_bytes += len(encoded)
            self._events.append(event)
        if problem:
            log.warning("a domain event cannot be published", domain_event=text, problem=event.problem)

    def sent(self) -> tuple[DomainEvent, ...]:
        """The events as they stand in an outcome."""
        with self._lock:
            return tuple(self._events)


def as_read(events: tuple[DomainEvent, ...]) -> list[PublishedEvent]:
    """The events of an outcome as others read them."""
    return [
        PublishedEvent(one.name, None if one.problem else msgspec.json.decode(one.payload), one.problem)
        for one in events
    ]


def _encoded(payload: Any) -> tuple[bytes, str]:
    """The payload as JSON, or why it is none that can be sent."""
    try:
        encoded = encode_json(payload, "payload")
    except NotJson as error:
        return b"", f"the payload is not JSON: {error}"
    except Exception as error:  # Code of the user's own may run while a value is encoded.
        return b"", f"the payload cannot be encoded: {type(error).__name__}: {error}"
    if len(encoded) > DOMAIN_EVENT_BYTES_MAX:
        most = DOMAIN_EVENT_BYTES_MAX
        return b"", f"{len(encoded)} bytes, {most} at most: publish a reference to what is large"
    return encoded, ""
