"""The namespace and template of tasks, which not every event carries."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from stepweave.api_errors import NotFound
from stepweave.client import Client
from stepweave_schemas.envelope import Envelope

#: Tasks whose names are remembered.
TASKS_MAX: Final = 50_000

Names = tuple[str | None, str | None]
_UNKNOWN: Final[Names] = (None, None)


class _Template(msgspec.Struct):
    namespace: str
    name: str


class _Created(msgspec.Struct):
    template: _Template


class _Said(msgspec.Struct):
    namespace: str | None = None
    task_name: str | None = None


_decode_created = msgspec.json.Decoder(_Created).decode
_decode_said = msgspec.json.Decoder(_Said).decode


class TaskNames:
    """Namespace and template by task: learned from the events that pass by, otherwise asked once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: OrderedDict[str, Names] = OrderedDict()

    def learn(self, envelope: Envelope) -> None:
        """Remember what a `task.created` says."""
        if envelope.type == "task.created":
            template = _decode_created(envelope.data).template
            self._remember(envelope.task_id, (template.namespace, template.name))

    async def of(self, envelope: Envelope) -> Names:
        """Namespace and template of an event's task; of the system's own events what they say themselves.

        Raises `ApiError` or `MessagingError` where it must be asked and nobody answers.
        """
        known = self._known.get(envelope.task_id)
        if known is not None:
            self._known.move_to_end(envelope.task_id)
            return known
        said = _decode_said(envelope.data)
        if said.namespace is not None and said.task_name is not None:
            names: Names = (said.namespace, said.task_name)
        elif not envelope.type.startswith(("task.", "step.")):
            return said.namespace, said.task_name
        else:
            try:
                task = await self._client.get_task(envelope.task_id)
                names = (task.namespace, task.name)
            except NotFound:
                names = _UNKNOWN
        self._remember(envelope.task_id, names)
        return names

    def _remember(self, task_id: str, names: Names) -> None:
        self._known[task_id] = names
        if len(self._known) > TASKS_MAX:
            self._known.popitem(last=False)
