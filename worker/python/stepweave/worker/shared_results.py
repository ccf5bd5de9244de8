"""Results of earlier steps that did not fit into a dispatch, asked for once for all workers of a batch.

The workers of one batch have the same ancestors, all of which are done when the first of them begins, so what one
has fetched is what the others would fetch.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

import msgspec

from stepweave.messaging import Connection
from stepweave_schemas.dispatch import Dispatch

from .intake import fetch_results

#: Batches whose results are kept, and the largest that is kept at all.
BATCHES_KEPT_MAX: Final = 8
KEPT_BYTES_MAX: Final = 16 * 1024 * 1024

Results = dict[str, msgspec.Raw]


class _BatchInputs(msgspec.Struct):
    """Of a batch worker's `step_inputs` what tells it from others."""

    batch_id: str = ""


class SharedResults:
    """Fetches dependency results; those of a batch's workers once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: OrderedDict[tuple[str, str], asyncio.Task[Results]] = OrderedDict()

    async def fetch(self, dispatch: Dispatch) -> Results:
        """All dependency results of a dispatch; not to be changed. Raises `MessagingError`."""
        batch_id = msgspec.json.decode(dispatch.step_inputs, type=_BatchInputs).batch_id
        if not batch_id:
            return await fetch_results(self._connection, dispatch)
        key = (dispatch.task_id, dispatch.step_name.removesuffix(f"_{batch_id}"))
        task = self._kept.get(key)
        if task is None:
            task = self._kept[key] = asyncio.ensure_future(fetch_results(self._connection, dispatch))
            task.add_done_callback(lambda done: self._fetched(key, done))
            while len(self._kept) > BATCHES_KEPT_MAX:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        # One of those that wait may be cancelled; the others still want it.
        return await asyncio.shield(task)

    def _fetched(self, key: tuple[str, str], task: asyncio.Task[Results]) -> None:
        failed = task.cancelled() or task.exception() is not None
        too_much = failed or sum(len(memoryview(raw)) for raw in task.result().values()) > KEPT_BYTES_MAX
        if too_much and self._kept.get(key) is task:
            del self._kept[key]

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._kept.values())
        self._kept.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
