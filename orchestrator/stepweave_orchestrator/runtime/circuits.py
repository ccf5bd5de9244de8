"""Which circuits are not closed, as far as this process knows: what it decides holds their steps.

The truth is each circuit's stream. Its owner tells all orchestrators of a change, after the commit; a process that
starts reads the projection, and whoever takes over a shard tells of its open circuits again. A process that does not
know yet lets steps begin; their failures are counted as any others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg

from stepweave.messaging import Connection
from stepweave_eventstore.store import LIST_LIMIT_MAX, EventStore, StreamFilter
from stepweave_orchestrator.core.gates.circuit import CircuitState
from stepweave_orchestrator.core.holding import circuit_key
from stepweave_schemas import subjects
from stepweave_schemas.codec import encode

from .actors import StreamActor

log = structlog.get_logger(__name__)

#: Circuits that are not closed at the same time; steps of further ones are not held.
OPEN_MAX: Final = 10_000


class _Notice(msgspec.Struct, frozen=True):
    """What orchestrators tell each other."""

    key: str
    is_closed: bool


_decoder: Final = msgspec.json.Decoder(_Notice)


class OpenCircuits:
    """The circuits that are not closed."""

    def __init__(
        self, connection: Connection, store: EventStore, on_change: Callable[[frozenset[str]], None]
    ):
        self._connection = connection
        self._store = store
        self._on_change = on_change
        self._keys: frozenset[str] = frozenset()

    async def load(self) -> None:
        """Read what the projection shows; raises `StoreUnavailable`."""
        found: set[str] = set()
        while len(found) < OPEN_MAX:
            rows = await self._store.list_streams(
                StreamFilter(
                    kind="circuit", statuses=("open", "half_open"), limit=LIST_LIMIT_MAX, offset=len(found)
                )
            )
            found.update(circuit_key(row.namespace, row.name) for row in rows)
            if len(rows) < LIST_LIMIT_MAX:
                break
        self._set(self._keys | found)

    def changed(self, actor: StreamActor) -> None:
        """A circuit of ours has committed events: tell everybody where it stands, where that is new."""
        state = actor.state
        assert isinstance(state, CircuitState)
        key = circuit_key(state.namespace, state.service)
        is_closed = state.status == "closed"
        if is_closed == (key not in self._keys):
            return
        self._take(key, is_closed)
        self._connection.send(subjects.CIRCUIT_CHANGED, encode(_Notice(key, is_closed)))

    def tell(self, actor: StreamActor) -> None:
        """Tell everybody where a circuit stands whose shard is ours now."""
        state = actor.state
        assert isinstance(state, CircuitState)
        key = circuit_key(state.namespace, state.service)
        is_closed = state.status == "closed"
        self._take(key, is_closed)
        self._connection.send(subjects.CIRCUIT_CHANGED, encode(_Notice(key, is_closed)))

    def on_message(self, message: Msg) -> None:
        """Another orchestrator tells of a circuit."""
        try:
            notice = _decoder.decode(message.data)
        except msgspec.MsgspecError as error:
            log.warning("refused a notice of a circuit", why=str(error))
            return
        self._take(notice.key, notice.is_closed)

    def _take(self, key: str, is_closed: bool) -> None:
        if is_closed:
            self._set(self._keys - {key})
        elif len(self._keys) < OPEN_MAX:
            self._set(self._keys | {key})

    def _set(self, keys: frozenset[str]) -> None:
        if keys != self._keys:
            self._keys = keys
            self._on_change(keys)
