"""A gate's own actor: ask it, and look at the events that follow.

    gate = GateActor(SLOTS)
    gate.when(join("a")).then("slots.opened", "slots.granted a")

An event is written as its type and the token that it is about. On the way every decision is checked to leave the
state alone and to be the same when asked twice, and every state to be what a replay and a snapshot make of it.
"""

from __future__ import annotations

from typing import Any, Self

from stepweave_orchestrator.core import Moment, Rejection, Wake
from stepweave_orchestrator.runtime.stream_kind import StreamKind, decode_state, encode_state
from stepweave_schemas import codec, events

from .scenario import T0_MS


class GateActor:
    """One gate, from its first event on."""

    def __init__(self, kind: StreamKind) -> None:
        self.kind = kind
        self.state: Any = kind.initial("gate")
        self.now_ms = T0_MS
        #: Every event so far as bytes, and when it was recorded.
        self.ledger: list[tuple[bytes, int]] = []
        self._decision: list[events.Event] | Rejection | None = None

    def later(self, milliseconds: int) -> Self:
        """Let time pass."""
        self.now_ms += milliseconds
        return self

    def ask(self, command: Any) -> list[events.Event] | Rejection:
        """What follows from a command; it is applied."""
        before = encode_state(self.state)
        moment = Moment(self.now_ms, "entropy")
        decision: list[events.Event] | Rejection = self.kind.decide(self.state, command, moment)
        assert self.kind.decide(self.state, command, moment) == decision
        assert encode_state(self.state) == before, "decide changed the state"
        if not isinstance(decision, Rejection):
            for event in decision:
                self.apply(event)
            if decision:
                self.check_replay()
        return decision

    def apply(self, event: events.Event) -> None:
        """Take an event into the ledger, as it comes back from the store."""
        data = codec.encode(event)
        assert codec.decode_event(data) == event, "the event does not come back as it was"
        self.ledger.append((data, self.now_ms))
        self.kind.evolve(self.state, event, self.now_ms)
        assert self.state.version == len(self.ledger)

    def replayed(self) -> Any:
        """The state as a replay of the ledger has it."""
        state = self.kind.initial("gate")
        for data, at_ms in self.ledger:
            self.kind.evolve(state, codec.decode_event(data), at_ms)
        return state

    def check_replay(self) -> None:
        """A replay, or a snapshot, comes to the same state; the line knows where each stands."""
        encoded = encode_state(self.state)
        assert len(self.ledger) > 2_000 or encode_state(self.replayed()) == encoded
        assert encode_state(decode_state(self.kind, encoded)) == encoded
        line = self.state.line
        order = [(one.rank, one.arrival) for one in line.waiting]
        assert order == sorted(order)
        assert line.places == {one.token: (one.rank, one.arrival) for one in line.waiting}

    def when(self, command: Any) -> Self:
        """Ask; `then` says what must follow."""
        self._decision = self.ask(command)
        return self

    def then(self, *expected: str) -> Self:
        """Exactly these events, in this order."""
        assert isinstance(self._decision, list), f"not events: {self._decision}"
        assert [said(event) for event in self._decision] == list(expected)
        return self

    def then_nothing(self) -> Self:
        """It was known before."""
        return self.then()

    def then_rejected(self, code: str) -> Self:
        """It is refused with this code, and with a reason."""
        assert isinstance(self._decision, Rejection), f"not refused: {self._decision}"
        assert self._decision.code == code and self._decision.reason
        return self

    def last(self, type: type[events.Event]) -> Any:
        """The latest event of a type."""
        stored = (codec.decode_event(data) for data, _ in reversed(self.ledger))
        return next(event for event in stored if isinstance(event, type))

    def waiting(self) -> list[str]:
        """The tokens of those who wait, in the order in which they go."""
        return [one.token for one in self.state.line.waiting]

    def wake_in_ms(self) -> int | None:
        """How long until it wants to be woken."""
        at_ms = self.kind.next_wake_ms(self.state)
        return None if at_ms is None else at_ms - self.now_ms

    def woken(self) -> Self:
        """Ask as its timer does, at the moment that it wants."""
        wait_ms = self.wake_in_ms()
        assert wait_ms is not None, "it does not want to be woken"
        return self.later(max(0, wait_ms)).when(Wake())


def said(event: events.Event) -> str:
    """An event in short."""
    token = getattr(event, "token", "")
    return f"{event.TYPE} {token}".rstrip()
