"""Every kind of system stream that is an actor."""

from __future__ import annotations

from typing import Final

from .bulk_kind import BULK
from .gate_kinds import CIRCUIT, RATE, SLOTS
from .schedule_kind import SCHEDULE
from .stream_kind import StreamKind

KINDS: Final[tuple[StreamKind, ...]] = (SLOTS, CIRCUIT, RATE, SCHEDULE, BULK)
#: By the type of the first event of their streams.
KINDS_BY_FIRST_EVENT: Final = {kind.first_event.TYPE: kind for kind in KINDS}
#: The types of all events of theirs that order a message.
ORDERING: Final = frozenset(event.TYPE for kind in KINDS for event in kind.ordering)
