"""Events from JetStream's feeds, in order, as long as somebody reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Final

import msgspec
import nats.errors
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from stepweave.messaging import Connection
from stepweave.subscriber.patterns import address_of
from stepweave_schemas import subjects
from stepweave_schemas.catalogue import CATALOGUE
from stepweave_schemas.envelope import Envelope, decode_envelope, decode_envelopes

from .errors import CommandError, ExitCode
from .output import progress

_TIMEOUT_SECONDS: Final = 5.0
#: A consumer that nobody reads any more is removed by the server after this.
_INACTIVE_SECONDS: Final = 60.0
_HEARTBEAT_SECONDS: Final = 5.0


class EventFeed:
    """The events of one feed that fit a pattern: `async with feed: async for envelope in feed`.

    `pattern` is matched against the event type, with `*` and `?`. From the moment `since`, from the start of what
    the server keeps, or else from now on. After a broken link it goes on where it stopped.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        pattern: str = "*",
        namespace: str | None = None,
        everything: bool = False,
        since: datetime | None = None,
        from_start: bool = False,
    ) -> None:
        named = pattern.startswith(subjects.DOMAIN_PREFIX)
        if not named and not any(fnmatchcase(name, pattern) for name in CATALOGUE):
            raise CommandError(
                f"no event type fits {pattern!r}: `stepweave events catalog` lists them", ExitCode.USAGE
            )
        if not (everything or named) and not any(
            entry.outcome and fnmatchcase(name, pattern) for name, entry in CATALOGUE.items()
        ):
            progress(f"{pattern} is in the log feed only, unless the namespace says otherwise: add --all")
        self._connection = connection
        self._pattern = pattern
        self._everything = everything
        self._since = since
        self._from_start = from_start
        self._subscription: Any = None
        self.stream = subjects.LOG_STREAM if everything else subjects.EVT_STREAM
        self.subject = subjects.LOG_STREAM_SUBJECTS[0] if everything else _subject(pattern, namespace)

    async def __aenter__(self) -> EventFeed:
        config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW, inactive_threshold=_INACTIVE_SECONDS)
        if self._since is not None:
            config.deliver_policy = DeliverPolicy.BY_START_TIME
            config.opt_start_time = self._since.isoformat()  # type: ignore[assignment]
        elif self._from_start:
            config.deliver_policy = DeliverPolicy.ALL
        jetstream = self._connection.client.jetstream(timeout=_TIMEOUT_SECONDS)
        try:
            self._subscription = await jetstream.subscribe(
                self.subject,
                stream=self.stream,
                config=config,
                ordered_consumer=True,
                idle_heartbeat=_HEARTBEAT_SECONDS,
            )
        except NotFoundError:
            raise CommandError(
                f"this NATS has no stream {self.stream}: start an orchestrator, which makes it",
                ExitCode.UNAVAILABLE,
            ) from None
        except (APIError, nats.errors.Error, TimeoutError) as error:
            raise CommandError(
                f"JetStream does not serve the stream {self.stream}: {error}; `stepweave doctor` tells more",
                ExitCode.UNAVAILABLE,
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._subscription is not None and self._connection.connected:
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await self._subscription.unsubscribe()
            except (nats.errors.Error, TimeoutError):
                return

    async def __aiter__(self) -> AsyncIterator[Envelope]:
        while True:
            try:
                message = await self._subscription.next_msg(timeout=None)
            except nats.errors.TimeoutError:
                continue
            for envelope in self._read(message.data):
                if fnmatchcase(envelope.type, self._pattern) or fnmatchcase(
                    address_of(envelope), self._pattern
                ):
                    yield envelope

    def _read(self, data: bytes) -> list[Envelope]:
        try:
            return decode_envelopes(data) if self._everything else [decode_envelope(data)]
        except msgspec.MsgspecError as error:
            progress(f"a message of {self.stream} is no event: {error}")
            return []


def _subject(pattern: str, namespace: str | None) -> str:
    """The narrowest subject of the signal feed that covers the pattern."""
    entity, dot, verb = pattern.partition(".")
    whole = [part if part.replace("_", "").isalpha() else "*" for part in (entity, verb)]
    # Names of domain events may have several words.
    tail = ".".join(whole) if dot else ">"
    if pattern.startswith(subjects.DOMAIN_PREFIX):
        tail = subjects.domain_event(">")
    return f"sw.evt.{'*' if namespace is None else subjects.token(namespace)}.*.*.{tail}"
