"""Takes back tries that somebody has ended: handlers that run hear of it, dispatches that wait are removed.

All of it is best effort. What is missed costs work, not correctness: what a worker still says is refused.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from stepweave.messaging import Connection, MessagingError
from stepweave_orchestrator.core.operators import step_number
from stepweave_orchestrator.core.state import OPEN, StepState, TaskState
from stepweave_schemas import result, subjects
from stepweave_schemas.codec import encode

log = structlog.get_logger(__name__)

#: Steps named in one notice.
NOTICE_STEPS_MAX: Final = 1_000
#: Removals asked of JetStream at the same time, those that wait for that, and how long one may take.
CONCURRENT_REMOVALS_MAX: Final = 50
REMOVALS_MAX: Final = 10_000
REMOVAL_SECONDS_MAX: Final = 5.0
#: Who may end a try from outside; in the other cases its worker knows.
_ENDED_BY: Final = ("cancel", "operator")


class Withdrawals:
    """For all shards of the process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._free = asyncio.Semaphore(CONCURRENT_REMOVALS_MAX)
        #: No more than `REMOVALS_MAX`.
        self._removals: set[asyncio.Task[None]] = set()

    def take_back(self, state: TaskState, step: str = "") -> list[asyncio.Future[None]]:
        """Take back what an operator's action, or the end of the task, has ended: one step's try, or all of them.

        What is returned is done when the dispatches are removed, or could not be.
        """
        number = step_number(state, step) if step else -1
        if step and number < 0:
            return []
        steps = state.steps if number < 0 else [state.steps[number]]
        ended = [one for one in steps if one.settled_by in _ENDED_BY and one.attempt]
        if not ended:
            return []
        self._tell(state, ended)
        waiting = [one for one in ended if one.lease_token and one.started_at_ms is None]
        if not waiting:
            return []
        return self._remove(state.the_plan.ref.namespace, [one.lease_token for one in waiting])

    def take_back_late(self, state: TaskState, begun: result.Started) -> None:
        """A worker has begun a try that is over: it missed the notice, or took the dispatch before it was removed."""
        number = state.number_of(begun.step_name)
        # Where the step goes on with another try, a notice, which names the step only, would end that one.
        if (
            number >= 0
            and state.steps[number].status not in OPEN
            and state.steps[number].uuid == begun.step_uuid
        ):
            self._tell(state, [state.steps[number]])

    async def close(self) -> None:
        """Give up what is under way."""
        removals = list(self._removals)
        for removal in removals:
            removal.cancel()
        await asyncio.gather(*removals, return_exceptions=True)

    def _tell(self, state: TaskState, steps: list[StepState]) -> None:
        subject = subjects.cancel_notice(state.the_plan.ref.namespace)
        for start in range(0, len(steps), NOTICE_STEPS_MAX):
            some = steps[start : start + NOTICE_STEPS_MAX]
            notice = {"task_id": state.task_id, "step_uuids": [step.uuid for step in some]}
            self._connection.send(subject, encode(notice))

    def _remove(self, namespace: str, lease_tokens: list[str]) -> list[asyncio.Future[None]]:
        stream = subjects.dispatch_stream(namespace)
        room = REMOVALS_MAX - len(self._removals)
        if len(lease_tokens) > room:
            log.warning("dispatches stay, too many are removed at once", count=len(lease_tokens) - room)
        removals: list[asyncio.Future[None]] = []
        for lease_token in lease_tokens[: max(0, room)]:
            removal = asyncio.ensure_future(self._removed(stream, subjects.withdrawn(namespace, lease_token)))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)
            removals.append(removal)
        return removals

    async def _removed(self, stream: str, which: str) -> None:
        async with self._free:
            try:
                answer = await self._connection.request(
                    f"$JS.API.STREAM.PURGE.{stream}",
                    msgspec.json.encode({"filter": which}),
                    timeout_seconds=REMOVAL_SECONDS_MAX,
                )
            except MessagingError as error:
                log.warning("dispatches could not be removed", subject=which, why=str(error))
                return
        if b'"error"' in answer.data:
            log.warning(
                "dispatches could not be removed", subject=which, why=answer.data.decode(errors="replace")
            )


async def removed(removals: list[asyncio.Future[None]]) -> None:
    """Wait until the dispatches are removed, as long as one removal may take; what is left then goes on by itself.

    A task may have thousands of them, and an operator is not to wait for all of those at a JetStream that is silent.
    """
    if removals:
        await asyncio.wait(removals, timeout=REMOVAL_SECONDS_MAX)
