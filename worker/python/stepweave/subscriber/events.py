"""An event as a subscriber's handler gets it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from stepweave_schemas.envelope import Envelope
from stepweave_schemas.events import DomainPublished
from stepweave_schemas.subjects import domain_event

_decode = msgspec.json.Decoder().decode
DOMAIN_PUBLISHED: Final = DomainPublished.TYPE


class Event(Mapping[str, Any]):
    """One event: its envelope and its payload in one, by item (`event["step_name"]`) and by attribute.

    Every event has `type`, `task_id` (also `task_uuid`), `version`, `recorded_at`, `correlation_id`,
    `causation_id`, `actor`, `shard` and `position`, and events of tasks `namespace` and `task_name`; the rest
    depends on its type. A missing field raises `KeyError` (or `AttributeError`) naming those there are; `get`
    gives None. `data` is the payload alone.
    """

    __slots__ = ("_fields", "data")

    def __init__(
        self, envelope: Envelope, *, namespace: str | None = None, task_name: str | None = None
    ) -> None:
        payload: dict[str, Any] = _decode(envelope.data)
        payload.pop("type", None)
        fields = dict(payload)
        for name in envelope.__struct_fields__:
            if name != "data":
                fields[name] = getattr(envelope, name)
        fields["task_uuid"] = envelope.task_id
        template = payload.get("template")
        if isinstance(template, dict):
            fields.setdefault("namespace", template.get("namespace"))
            fields.setdefault("task_name", template.get("name"))
        if namespace is not None:
            fields.setdefault("namespace", namespace)
        if task_name is not None:
            fields.setdefault("task_name", task_name)
        self._fields = fields
        self.data: Mapping[str, Any] = payload

    @property
    def address(self) -> str:
        """What subscribers ask for: the type, or `domain.<name>` of a domain event."""
        if self._fields["type"] != DOMAIN_PUBLISHED:
            return str(self._fields["type"])
        return domain_event(self._fields["name"])

    def __getitem__(self, name: str) -> Any:
        try:
            return self._fields[name]
        except KeyError:
            raise KeyError(
                f"{self.type} has no {name!r}; it has: {', '.join(sorted(self._fields))}"
            ) from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(
                f"{self._fields['type']} has no {name!r}; it has: {', '.join(sorted(self._fields))}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return (
            f"<Event {self._fields['type']} of {self._fields['task_id']} version {self._fields['version']}>"
        )
