"""The signals of a demonstration's run: nobody types there, so its input says what is sent, and when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from stepweave.api_errors import Conflict, ValidationFailed
from stepweave.client import Client
from stepweave_schemas.envelope import Envelope

from .demo_examples import SignalToSend
from .event_text import payload

SENT_BY: Final = "demo"


class SignalSender:
    """Sends one task's signals: the early ones at `begin`, each other one when a step waits for it."""

    def __init__(self, client: Client, task_id: str, signals: Iterable[SignalToSend]) -> None:
        self._client = client
        self._task_id = task_id
        self._left = list(signals)
        self._refusal = ""

    async def begin(self) -> None:
        """The task exists."""
        for signal in [each for each in self._left if each.early]:
            await self._send(signal)

    async def happened(self, envelope: Envelope) -> None:
        """An event of the task."""
        if envelope.type != "signal.awaited":
            return
        awaited = payload(envelope)["signal"]
        signal = next((each for each in self._left if each.name == awaited), None)
        if signal is not None:
            await self._send(signal)

    @property
    def fault(self) -> str:
        """What is wrong once the task has ended; empty where nothing is."""
        if self._refusal or not self._left:
            return self._refusal
        return f"no step waited for its signal {self._left[0].name}, so it was not sent"

    async def _send(self, signal: SignalToSend) -> None:
        self._left.remove(signal)
        try:
            await self._client.signal(self._task_id, signal.name, signal.payload, sent_by=SENT_BY)
        except (Conflict, ValidationFailed) as error:
            self._refusal = f"its signal {signal.name} was refused: {error}"


def sent_text(signal: SignalToSend) -> str:
    """A signal for people: its name, its payload, and when it is sent."""
    when = "before a step waits for it" if signal.early else "once a step waits for it"
    return f"{signal.name} {msgspec.json.encode(signal.payload).decode()}, {when}"
