"""The workers that are alive, from the bucket that they write to."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import nats.errors
from nats.js.errors import APIError, BucketNotFoundError, NoKeysError, NotFoundError

from stepweave.messaging import Connection
from stepweave_schemas.subjects import WORKERS_BUCKET

TIMEOUT_SECONDS: Final = 5.0


class WorkersUnknown(Exception):
    """JetStream does not serve the bucket at the moment; the text says why."""


async def present_workers(connection: Connection) -> list[dict[str, Any]]:
    """The entry of every worker, in no order; raises `WorkersUnknown`."""
    jetstream = connection.client.jetstream(timeout=TIMEOUT_SECONDS)
    found = []
    try:
        bucket = await jetstream.key_value(WORKERS_BUCKET)
        for key in await bucket.keys():
            try:
                entry = await bucket.get(key)
            except NotFoundError:
                continue  # it left in this moment
            try:
                state = msgspec.json.decode(entry.value or b"{}")
            except msgspec.MsgspecError:
                continue
            if isinstance(state, dict) and state:
                found.append(state)
    except (BucketNotFoundError, NoKeysError):
        return []
    except (APIError, nats.errors.Error, TimeoutError) as error:
        raise WorkersUnknown(str(error)) from None
    return found
