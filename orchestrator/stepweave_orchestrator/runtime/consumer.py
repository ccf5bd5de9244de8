"""What workers say, from the CMD stream to the actors: checked where it enters, acknowledged after the commit."""

from __future__ import annotations

from typing import Any

import structlog
from nats.aio.msg import Msg

from stepweave.messaging import ACK, Connection, PullLoop, nak
from stepweave_orchestrator.core.rejection import Rejection
from stepweave_schemas import result, subjects
from stepweave_schemas.codec import MessageError, decode_outcomes, json_text
from stepweave_schemas.dispatch import RESULT_BYTES_MAX
from stepweave_schemas.identity import is_uuid
from stepweave_schemas.raw import NO_RAW

from .metrics import Metrics
from .owner import OwnerLoop
from .work import ShardMoved, Unstorable, Work

log = structlog.get_logger(__name__)

#: Messages asked for at a time.
PULL_BATCH_MAX = 256
#: Longest step name, worker id and error code, in characters.
TEXT_CHARS_MAX = 512
_FORGED = frozenset({"WRONG_TOKEN", "UNKNOWN_STEP", "NOT_FOUND"})


class _Delivery:
    """One message; acknowledged when everything in it is committed or refused."""

    __slots__ = ("_connection", "_failed", "_left", "_reply")

    def __init__(self, connection: Connection, reply: str, count: int) -> None:
        self._connection = connection
        self._reply = reply
        self._left = count
        self._failed = False

    def settle(self, *, moved: bool = False) -> None:
        self._failed = self._failed or moved
        self._left -= 1
        if self._left <= 0:
            # Handed back where the shard has moved: its next owner takes the whole message again.
            self._connection.send(self._reply, nak(0.1) if self._failed else ACK)


class CommandConsumer:
    """Pulls the results for one shard and turns them into commands."""

    def __init__(self, connection: Connection, shard: int, owner: OwnerLoop, metrics: Metrics) -> None:
        self._connection = connection
        self._shard = shard
        self._owner = owner
        self._metrics = metrics
        self._pull = PullLoop(
            connection,
            subjects.CMD_STREAM,
            subjects.command_consumer(shard),
            batch=PULL_BATCH_MAX,
            on_messages=self._on_messages,
        )

    async def start(self) -> None:
        """Begin to pull."""
        await self._pull.start()

    async def stop(self) -> None:
        """Pull no more."""
        await self._pull.stop()

    def _on_messages(self, messages: list[Msg]) -> None:
        for message in messages:
            self._take(message)

    def _take(self, message: Msg) -> None:
        address = subjects.parse_result(message.subject)
        try:
            if address is None:
                raise MessageError("no worker publishes on this subject")
            outcomes = decode_outcomes(message.data)
            if len(outcomes) > result.RESULTS_PER_MESSAGE_MAX:
                raise MessageError(
                    f"{len(outcomes)} results in one message, {result.RESULTS_PER_MESSAGE_MAX} at most"
                )
            for outcome in outcomes:
                self._check(outcome, address)
        except MessageError as error:
            self._refuse(message.subject, str(error), len(message.data))
            self._connection.send(message.reply, ACK)
            return
        delivery = _Delivery(self._connection, message.reply, max(1, len(outcomes)))
        if not outcomes:
            delivery.settle()
            return
        self._metrics.outcomes_taken += len(outcomes)
        for outcome in outcomes:
            self._submit(outcome, address.namespace, delivery)

    def _submit(self, outcome: result.AnyOutcome, namespace: str, delivery: _Delivery) -> None:
        def finish(ending: Any) -> None:
            if isinstance(ending, ShardMoved):
                delivery.settle(moved=True)
                return
            if isinstance(ending, Unstorable):
                self._submit(_not_storable(outcome), namespace, delivery)
                return
            if isinstance(ending, Rejection) and ending.code in _FORGED:
                self._refuse(f"{outcome.KIND} of {outcome.task_id}/{outcome.step_name}", ending.reason, 0)
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

    def _check(self, outcome: result.AnyOutcome, address: subjects.ResultAddress) -> None:
        """Raise `MessageError` unless the outcome is one that this shard may be told."""
        if not is_uuid(outcome.task_id):
            raise MessageError("task_id is no UUID in canonical form")
        if address.task_id not in (outcome.task_id, subjects.MANY_TASKS):
            raise MessageError(f"the subject names task {address.task_id}, the result {outcome.task_id}")
        for field in ("step_name", "worker_id", "lease_token"):
            text = getattr(outcome, field)
            if not text or len(text) > TEXT_CHARS_MAX:
                raise MessageError(f"{field}: expected 1 to {TEXT_CHARS_MAX} characters")
        if isinstance(outcome, result.Success):
            size = len(memoryview(outcome.result)) + len(memoryview(outcome.metadata))
            if size > RESULT_BYTES_MAX:
                raise MessageError(f"a result of {size} bytes, {RESULT_BYTES_MAX} at most")
            json_text(outcome.result)
            if outcome.metadata is not NO_RAW:
                json_text(outcome.metadata)
        elif isinstance(outcome, result.Failure):
            if outcome.error_type not in result.ERROR_TYPES:
                raise MessageError(
                    f"error_type {outcome.error_type!r}: one of {', '.join(result.ERROR_TYPES)}"
                )
            if len(outcome.error_message) > result.ERROR_MESSAGE_CHARS_MAX:
                raise MessageError(f"error_message: {result.ERROR_MESSAGE_CHARS_MAX} characters at most")
            if outcome.error_code is not None and len(outcome.error_code) > TEXT_CHARS_MAX:
                raise MessageError(f"error_code: {TEXT_CHARS_MAX} characters at most")
            if outcome.retry_after_ms is not None and outcome.retry_after_ms < 0:
                raise MessageError("retry_after_ms: expected 0 or more")
            if outcome.metadata is not NO_RAW:
                if len(memoryview(outcome.metadata)) > RESULT_BYTES_MAX:
                    raise MessageError(f"metadata: {RESULT_BYTES_MAX} bytes at most")
                json_text(outcome.metadata)

    def _refuse(self, what: str, why: str, size_bytes: int) -> None:
        self._metrics.messages_refused += 1
        log.warning("refused a message of a worker", what=what, why=why, size_bytes=size_bytes)


def _not_storable(outcome: result.AnyOutcome) -> result.Failure:
    """What is recorded instead of a result whose content the database does not take."""
    return result.Failure(
        task_id=outcome.task_id,
        step_uuid=outcome.step_uuid,
        step_name=outcome.step_name,
        attempt=outcome.attempt,
        lease_token=outcome.lease_token,
        worker_id=outcome.worker_id,
        error_type="permanent_error",
        error_code="RESULT_NOT_STORABLE",
        error_message="the event store cannot hold the result's text",
        retryable=False,
    )
