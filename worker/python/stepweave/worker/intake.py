"""From a delivered message to a try that can run, or to the word why it cannot."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from nats.aio.msg import Msg

from stepweave.error_types import ErrorType
from stepweave.errors import ConfigurationError
from stepweave.invocation import Invocation
from stepweave.messaging import Connection, MessagingError, delivery_of
from stepweave.method_names import HandlerMethodNotFound
from stepweave.registry import HandlerNotFound, Registry, ResolverNotFound
from stepweave.results import StepHandlerResult
from stepweave.telemetry import get_logger
from stepweave_schemas.api import GetResults, ResultsReply, operation_subject
from stepweave_schemas.codec import MessageError, decode_dispatch, encode
from stepweave_schemas.dispatch import Dispatch
from stepweave_schemas.subjects import parse_result

log = get_logger("stepweave.worker")

#: How long the rest of a step's dependency results is asked for before the try is failed.
RESULTS_TIMEOUT_SECONDS: Final = 30.0
_RESULTS_TRY_SECONDS: Final = 5.0
_RESULTS_PAUSE_SECONDS: Final = 0.25
#: The code of the failure that says that the worker does not have the handler: another one may.
HANDLER_NOT_FOUND: Final = "HANDLER_NOT_FOUND"
#: How many names of handlers a refusal lists.
_NAMES_MAX: Final = 20

_decode_results = msgspec.json.Decoder(ResultsReply).decode


class Malformed(Exception):
    """A message on the dispatch stream that is no dispatch; it can only be thrown away."""


def read_dispatch(message: Msg) -> tuple[Dispatch, int]:
    """The dispatch in a delivery, and how often it has been delivered; raises `Malformed`."""
    delivery = delivery_of(message.reply)
    if delivery is None:
        raise Malformed(f"not delivered by a JetStream consumer (reply subject {message.reply[:100]!r})")
    try:
        dispatch = decode_dispatch(message.data)
    except MessageError as error:
        raise Malformed(str(error)) from error
    if parse_result(dispatch.result_subject) is None:
        raise Malformed(f"{dispatch.result_subject!r} is no subject for results")
    if dispatch.attempt < 1 or not dispatch.lease_token:
        raise Malformed("attempt counts from 1, and lease_token is not empty")
    return dispatch, delivery.deliveries


def find_handler(registry: Registry, dispatch: Dispatch, worker_id: str) -> Invocation | StepHandlerResult:
    """The handler that a dispatch names, or the failure that says why there is none here."""
    try:
        return registry.resolve(dispatch.handler, method=dispatch.method, resolver=dispatch.resolver)
    except ResolverNotFound as error:
        return StepHandlerResult.failure(
            f"{error}, on worker {worker_id}; correct the template's handler.resolver, or add the resolver",
            ErrorType.PERMANENT_ERROR,
            False,
            error_code="RESOLVER_NOT_FOUND",
            metadata={
                "handler": dispatch.handler,
                "resolver": dispatch.resolver,
                "resolvers": registry.resolvers,
                "worker_id": worker_id,
            },
        )
    except HandlerMethodNotFound as error:
        return StepHandlerResult.failure(
            f"{error}; correct the template's handler.method",
            ErrorType.PERMANENT_ERROR,
            False,
            error_code="HANDLER_METHOD_NOT_FOUND",
            metadata={
                "handler": dispatch.handler,
                "method": dispatch.method,
                "methods": error.methods[:_NAMES_MAX],
                "worker_id": worker_id,
            },
        )
    except HandlerNotFound as error:
        names = registry.names
        listed = ", ".join(names[:_NAMES_MAX]) + (", …" if len(names) > _NAMES_MAX else "")
        return StepHandlerResult.failure(
            f"{error} on worker {worker_id}; it has: {listed or 'none'}",
            ErrorType.HANDLER_ERROR,
            True,
            error_code=HANDLER_NOT_FOUND,
            metadata={"handler": dispatch.handler, "worker_id": worker_id},
        )
    except ConfigurationError as error:
        return StepHandlerResult.failure(
            str(error), ErrorType.HANDLER_ERROR, True, error_code="HANDLER_UNUSABLE"
        )
    except Exception as error:  # a resolver of the user's, or a module that does not import
        return StepHandlerResult.failure(
            f"looking up handler {dispatch.handler!r} raised {type(error).__name__}: {error}",
            ErrorType.HANDLER_ERROR,
            True,
            error_code="HANDLER_UNUSABLE",
        )


async def fetch_results(connection: Connection, dispatch: Dispatch) -> dict[str, msgspec.Raw]:
    """All dependency results of a dispatch that carries only some of them.

    Raises `MessagingError` where the API does not give them within `RESULTS_TIMEOUT_SECONDS`.
    """
    results = dict(dispatch.dependency_results)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RESULTS_TIMEOUT_SECONDS
    offset: int | None = 0
    while offset is not None:
        request = GetResults(task_id=dispatch.task_id, step_name=dispatch.step_name, offset=offset)
        try:
            answer = await connection.request(
                operation_subject("task.results"), encode(request), timeout_seconds=_RESULTS_TRY_SECONDS
            )
            page = _decode_results(answer.data)
        except msgspec.MsgspecError:
            # An error of the API, which is JSON of another shape.
            raise MessagingError(
                f"the results of earlier steps could not be fetched: {answer.data[:500].decode(errors='replace')}"
            ) from None
        except MessagingError as error:
            if loop.time() >= deadline:
                raise MessagingError(f"the results of earlier steps could not be fetched: {error}") from error
            await asyncio.sleep(_RESULTS_PAUSE_SECONDS)
            continue
        for step, raw in page.results.items():
            results.setdefault(step, raw)
        if page.next_offset is not None and page.next_offset <= offset:
            raise MessagingError("the API's pages of results do not advance")
        offset = page.next_offset
    return results
