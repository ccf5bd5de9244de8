"""Who waits before a gate, in the order in which they are let through: by priority and age (`stepweave_schemas.aging`)."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, NamedTuple

import msgspec

from stepweave_schemas.aging import rank_ms

#: Most who may wait before one gate; beyond it they are asked to come again. Where creates of a namespace are refused
#: (`namespace_steps_max`), fewer wait before its gates.
WAITING_MAX: Final = 300_000


class Place(NamedTuple):
    """Where somebody stands: the smaller one goes first."""

    rank: int
    arrival: int


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """One who waits."""

    #: Moment of the hold, less what its priority is worth (ms); and its number in order of arrival.
    rank: int
    arrival: int
    token: str
    task_id: str
    step_name: str
    held_at_ms: int
    priority: int
    #: Of slots: how many may run at once, as the asker's template says.
    limit: int = 0


class Line(msgspec.Struct, kw_only=True):
    """All who wait before one gate."""

    waiting: list[Waiting] = []
    #: The place of each by its token.
    places: dict[str, tuple[int, int]] = {}
    arrivals: int = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def __contains__(self, token: object) -> bool:
        return token in self.places

    @property
    def first(self) -> Waiting | None:
        """Who goes next."""
        return self.waiting[0] if self.waiting else None

    def joined(
        self, token: str, task_id: str, step_name: str, held_at_ms: int, priority: int, limit: int = 0
    ) -> Waiting:
        """How somebody new would stand; does not change the line."""
        return Waiting(
            rank_ms(held_at_ms, priority),
            self.arrivals,
            token,
            task_id,
            step_name,
            held_at_ms,
            priority,
            limit,
        )

    def ahead_of(self, place: Place) -> int:
        """How many stand before a place."""
        return bisect_left(self.waiting, place, key=_place)

    def join(self, one: Waiting) -> None:
        """Take somebody in."""
        self.arrivals = one.arrival + 1
        self.places[one.token] = (one.rank, one.arrival)
        self.waiting.insert(self.ahead_of(_place(one)), one)

    def get(self, token: str) -> Waiting | None:
        """Who waits under a token, if anybody."""
        place = self.places.get(token)
        return None if place is None else self.waiting[self.ahead_of(Place(*place))]

    def leave(self, token: str) -> bool:
        """Let somebody go; says whether they were there."""
        place = self.places.pop(token, None)
        if place is None:
            return False
        del self.waiting[self.ahead_of(Place(*place))]
        return True

    def position_of(self, token: str) -> int | None:
        """How many go before this one; `None` where it does not wait."""
        place = self.places.get(token)
        return None if place is None else self.ahead_of(Place(*place))


def _place(one: Waiting) -> Place:
    return Place(one.rank, one.arrival)
