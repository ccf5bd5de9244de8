"""Stepweave for people who write steps, start tasks and listen to events.

    from stepweave import step_handler, inputs, depends_on, PermanentError, RetryableError

    @step_handler("charge_card")
    @inputs(OrderInput)
    async def charge_card(inputs: OrderInput, context):
        return {"payment_id": ...}

- Handlers: the decorators (`decorators`) or classes (`StepHandler`); they get a `StepContext` and return a
  result, or raise `PermanentError` or `RetryableError`.
- `Worker` runs handlers, `Registry` finds them.
- `Client` (and `SyncClient`) starts tasks and asks about them.
- `Subscriber` and `BaseSubscriber` react to events.
- `stepweave.testing` runs handlers and whole workflows without a server.
"""

from .api_errors import (
    ApiError,
    ApiTimeout,
    Backpressure,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    ServerError,
    Unauthorized,
    Unavailable,
    ValidationFailed,
)
from .client import Client
from .context import StepContext
from .decorators import depends_on, inputs, step_handler
from .error_types import ErrorType
from .errors import (
    AuthenticationError,
    AuthorizationError,
    BusinessLogicError,
    ConfigurationError,
    NetworkError,
    NotFoundError,
    PermanentError,
    RateLimitError,
    ResourceContentionError,
    RetryableError,
    ServiceUnavailableError,
    StepweaveError,
    TimeoutError,
    ValidationError,
)
from .handlers import StepHandler
from .registry import HandlerInfo, Registry
from .responses import CreatedTask, TaskResponse, TemplateResponse
from .results import StepHandlerResult
from .subscriber import BaseSubscriber, Event, ParkedEvent, Subscriber
from .sync_client import SyncClient
from .worker import Worker

__all__ = [
    "ApiError",
    "ApiTimeout",
    "AuthenticationError",
    "AuthorizationError",
    "Backpressure",
    "BadRequest",
    "BaseSubscriber",
    "BusinessLogicError",
    "Client",
    "ConfigurationError",
    "Conflict",
    "CreatedTask",
    "ErrorType",
    "Event",
    "Forbidden",
    "HandlerInfo",
    "NetworkError",
    "NotFound",
    "NotFoundError",
    "ParkedEvent",
    "PermanentError",
    "RateLimitError",
    "Registry",
    "ResourceContentionError",
    "RetryableError",
    "ServerError",
    "ServiceUnavailableError",
    "StepContext",
    "StepHandler",
    "StepHandlerResult",
    "StepweaveError",
    "Subscriber",
    "SyncClient",
    "TaskResponse",
    "TemplateResponse",
    "TimeoutError",
    "Unauthorized",
    "Unavailable",
    "ValidationError",
    "ValidationFailed",
    "Worker",
    "depends_on",
    "inputs",
    "step_handler",
]
