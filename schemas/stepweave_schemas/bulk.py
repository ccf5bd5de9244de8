"""An action on every task that a filter finds: what is asked."""

from __future__ import annotations

from typing import Literal

import msgspec

#: What can be done with many tasks; as `task.cancel` and its like do it with one.
BulkAction = Literal["cancel", "pause", "resume", "retry", "give_up", "resolve"]


class BulkFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which tasks, as in `task.list`; absent fields do not restrict."""

    namespace: str | None = None
    name: str | None = None
    #: The version of their template.
    version: str | None = None
    status: tuple[str, ...] = ()
    initiator: str | None = None
    source_system: str | None = None
    tag: str | None = None
    #: Created at this moment or later, and before this one; RFC 3339 with a time zone.
    created_from: str | None = None
    created_before: str | None = None
