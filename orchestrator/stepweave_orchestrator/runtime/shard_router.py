"""Brings a request to the owner of its shard, wherever that is."""

from __future__ import annotations

import asyncio

import msgspec

from stepweave.messaging import Connection, MessagingError, NoResponders, PayloadTooLarge
from stepweave_schemas import subjects
from stepweave_schemas.api import ApiError
from stepweave_schemas.codec import encode

from .endings import ERROR_PREFIX, read_error
from .owner import OwnerLoop
from .owner_requests import CreateSeveral, OwnerRequest
from .owner_service import REQUEST_SECONDS_MAX, OwnerService
from .work import ShardMoved

#: How long a request waits before it asks again for a shard that changes hands.
OWNER_RETRY_SECONDS = 0.1


class ShardRouter:
    """Brings a request to the owner of its shard, wherever that is."""

    def __init__(self, connection: Connection, owner: OwnerLoop, service: OwnerService) -> None:
        self._connection = connection
        self._owner = owner
        self._service = service

    async def call(self, shard: int, request: OwnerRequest) -> bytes:
        """The owner's answer. Raises `ApiError`; waits a while for a shard that changes hands."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REQUEST_SECONDS_MAX
        while True:
            try:
                if shard in self._owner.shards:
                    return await self._service.handle(shard, request)
                answer = await self._connection.request(
                    subjects.owner(shard), encode(request), timeout_seconds=max(0.1, deadline - loop.time())
                )
            except (ShardMoved, NoResponders):
                if loop.time() >= deadline:
                    raise ApiError(
                        "SERVICE_UNAVAILABLE", f"shard {shard} has no owner at the moment; try again"
                    ) from None
                await asyncio.sleep(OWNER_RETRY_SECONDS)
                continue
            except PayloadTooLarge as error:
                if isinstance(request, CreateSeveral) and len(request.tasks) > 1:
                    return await self._call_in_halves(shard, request)
                raise ApiError(
                    "VALIDATION_FAILED", f"the request is too large to be passed on: {error}"
                ) from None
            except MessagingError as error:
                raise ApiError(
                    "SERVICE_UNAVAILABLE", f"the owner of shard {shard} did not answer: {error}"
                ) from None
            if answer.data.startswith(ERROR_PREFIX):
                refusal = read_error(answer.data)
                if refusal.code == "SERVICE_UNAVAILABLE" and loop.time() < deadline:
                    await asyncio.sleep(OWNER_RETRY_SECONDS)
                    continue
                raise refusal
            return answer.data

    async def _call_in_halves(self, shard: int, request: CreateSeveral) -> bytes:
        """With what was added on the way the tasks are more than one message carries."""
        middle = len(request.tasks) // 2
        answers: list[msgspec.Raw] = []
        for tasks in (request.tasks[:middle], request.tasks[middle:]):
            answer = await self.call(shard, msgspec.structs.replace(request, tasks=tasks))
            answers += msgspec.json.decode(answer, type=list[msgspec.Raw])
        return encode(answers)
