"""What workers say, from the CMD stream to the actors: checked where it enters, acknowledged after the commit.

Questions to gates have a consumer of their own: many of them may have to wait, and hold up nothing else.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from nats.aio.msg import Msg

from stepweave.messaging import ACK, Connection, PullLoop, nak
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import result, subjects
from stepweave_schemas.codec import MessageError

from .actors import TaskActor
from .child_orders import ChildOrders
from .loading import Unloadable
from .metrics import Metrics
from .outcomes import not_storable, read_outcomes
from .owner import OwnerLoop
from .withdrawals import Withdrawals
from .work import Done, Faulty, ShardMoved, Unstorable, Work

log = structlog.get_logger(__name__)

#: Messages asked for at a time.
PULL_BATCH_MAX = 256
#: Questions to the gates of one shard that are being carried out.
QUESTIONS_UNDER_WAY_MAX = 1_000
#: When a message comes again whose shard has moved, or whose task cannot be rebuilt by this version.
MOVED_SECONDS = 0.1
UNLOADABLE_SECONDS = 30.0
_FORGED = frozenset({"WRONG_TOKEN", "UNKNOWN_STEP", "NOT_FOUND"})


class _Delivery:
    """One message; acknowledged when everything in it is committed or refused."""

    __slots__ = ("_again_seconds", "_connection", "_left", "_reply")

    def __init__(self, connection: Connection, reply: str, count: int) -> None:
        self._connection = connection
        self._reply = reply
        self._left = count
        self._again_seconds = 0.0

    def settle(self, *, again_seconds: float = 0.0) -> None:
        """One of them is done; with `again_seconds` the whole message is to come again after so long."""
        self._again_seconds = max(self._again_seconds, again_seconds)
        self._left -= 1
        if self._left <= 0:
            self._connection.send(self._reply, nak(self._again_seconds) if self._again_seconds else ACK)


class CommandConsumer:
    """Pulls the results, orders and questions for one shard and turns them into commands."""

    def __init__(
        self,
        connection: Connection,
        shard: int,
        owner: OwnerLoop,
        children: ChildOrders,
        withdrawals: Withdrawals,
        metrics: Metrics,
    ) -> None:
        self._connection = connection
        self._children = children
        self._shard = shard
        self._owner = owner
        self._withdrawals = withdrawals
        self._metrics = metrics
        self._pull = PullLoop(
            connection,
            subjects.CMD_STREAM,
            subjects.command_consumer(shard),
            batch=PULL_BATCH_MAX,
            on_messages=self._on_messages,
        )
        self._questions_count = 0
        self._questions = PullLoop(
            connection,
            subjects.CMD_STREAM,
            subjects.question_consumer(shard),
            batch=PULL_BATCH_MAX,
            on_messages=self._on_questions,
            demand=lambda: QUESTIONS_UNDER_WAY_MAX - self._questions_count,
        )

    async def start(self) -> None:
        """Begin to pull."""
        await self._pull.start()
        await self._questions.start()

    async def stop(self) -> None:
        """Pull no more."""
        await asyncio.gather(self._pull.stop(), self._questions.stop())

    def _on_messages(self, messages: list[Msg]) -> None:
        for message in messages:
            self._take(message)

    def _on_questions(self, messages: list[Msg]) -> None:
        for message in messages:
            self._questions_count += 1
            self._children.take(self._shard, message).add_done_callback(self._on_question_done)

    def _on_question_done(self, _task: asyncio.Task[None]) -> None:
        self._questions_count -= 1
        self._questions.nudge()

    def _take(self, message: Msg) -> None:
        if message.subject.startswith(subjects.COMMAND_PREFIX):
            self._children.take(self._shard, message)
            return
        address = subjects.parse_result(message.subject)
        try:
            if address is None:
                raise MessageError("no worker publishes on this subject")
            outcomes = read_outcomes(message.data, address)
        except MessageError as error:
            self._refuse(message.subject, str(error), len(message.data))
            self._connection.send(message.reply, ACK)
            return
        delivery = _Delivery(self._connection, message.reply, len(outcomes))
        self._metrics.outcomes_taken += len(outcomes)
        for outcome in outcomes:
            self._submit(outcome, address.namespace, delivery)

    def _submit(
        self, outcome: result.AnyOutcome, namespace: str, delivery: _Delivery, *, replaced: bool = False
    ) -> None:
        def finish(ending: Any) -> None:
            if type(ending) is Done:
                delivery.settle()
                return
            if isinstance(ending, ShardMoved):
                # Its next owner takes the message.
                delivery.settle(again_seconds=MOVED_SECONDS)
                return
            if isinstance(ending, Unloadable):
                delivery.settle(again_seconds=UNLOADABLE_SECONDS)
                return
            if isinstance(ending, Unstorable | Faulty) and not replaced:
                failure = not_storable(outcome, "the event store cannot hold the result's text")
                self._submit(failure, namespace, delivery, replaced=True)
                return
            if isinstance(ending, Rejection):
                if ending.code in _FORGED:
                    self._refuse(f"{outcome.KIND} of {outcome.task_id}/{outcome.step_name}", ending.reason, 0)
                elif isinstance(outcome, result.Started):
                    self._begun_too_late(outcome)
            delivery.settle()

        self._owner.submit(
            Work(
                stream_id=outcome.task_id,
                shard=self._shard,
                command=outcome,
                causation_id=f"{outcome.KIND}:{outcome.step_uuid}:{outcome.attempt}",
                actor_name=f"worker:{outcome.worker_id}",
                finish=finish,
                namespace=namespace,
            )
        )

    def _begun_too_late(self, begun: result.Started) -> None:
        actor = self._owner.actors.peek(begun.task_id)
        if isinstance(actor, TaskActor):
            self._withdrawals.take_back_late(actor.state, begun)

    def _refuse(self, what: str, why: str, size_bytes: int) -> None:
        self._metrics.messages_refused += 1
        log.warning("refused a message of a worker", what=what, why=why, size_bytes=size_bytes)
