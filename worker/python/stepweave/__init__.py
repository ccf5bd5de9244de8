"""Stepweave for people who write steps, start tasks and listen to events.

    from stepweave import step_handler, inputs, depends_on, PermanentError, RetryableError

    @step_handler("charge_card")
    @inputs(OrderInput)
    async def charge_card(inputs: OrderInput, context):
        return {"payment_id": ...}

- Handlers: the decorators (`decorators`) or classes (`StepHandler`); they get a `StepContext` and return a
  result, or raise `PermanentError` or `RetryableError`.
- Handlers that shape the workflow: `decision_handler` or `DecisionHandler` choose branches (`Decision`);
  `batch_analyzer` cuts work into batches (`BatchConfig`) and `batch_worker` does one (`BatchContext`), `Batchable` is
  both for classes, and `AggregationScenario` brings their results together. Any handler saves its progress with
  `context.checkpoint_yield`, and names what is to be undone with `compensation_steps` of its failure.
- `Worker` runs handlers, `Registry` finds them.
- `Client` (and `SyncClient`) starts tasks and asks about them.
- `Subscriber` and `BaseSubscriber` react to events.
- `stepweave.testing` runs handlers and whole workflows without a server.
"""

from .api import Api, ApiResponse, AsyncApi
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
from .api_handler import ApiHandler, APIMixin, AsyncApiHandler, AsyncAPIMixin, api_handler
from .batchable import Batchable
from .batches import AggregationScenario, BatchConfig, BatchContext
from .client import Client
from .context import StepContext
from .decisions import Decision, DecisionHandler, DecisionMixin
from .decorators import batch_analyzer, batch_worker, decision_handler, depends_on, inputs, step_handler
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
from .registry import HandlerInfo, HandlerResolver, Registry
from .responses import (
    CreatedTask,
    DeadLettersResponse,
    ForkResponse,
    SignalResponse,
    TaskResponse,
    TemplateResponse,
)
from .results import StepHandlerResult
from .subscriber import BaseSubscriber, Event, ParkedEvent, Subscriber
from .sync_client import SyncClient
from .worker import Worker

__all__ = [
    "APIMixin",
    "AggregationScenario",
    "Api",
    "ApiError",
    "ApiHandler",
    "ApiResponse",
    "ApiTimeout",
    "AsyncAPIMixin",
    "AsyncApi",
    "AsyncApiHandler",
    "AuthenticationError",
    "AuthorizationError",
    "Backpressure",
    "BadRequest",
    "BaseSubscriber",
    "BatchConfig",
    "BatchContext",
    "Batchable",
    "BusinessLogicError",
    "Client",
    "ConfigurationError",
    "Conflict",
    "CreatedTask",
    "DeadLettersResponse",
    "Decision",
    "DecisionHandler",
    "DecisionMixin",
    "ErrorType",
    "Event",
    "Forbidden",
    "ForkResponse",
    "HandlerInfo",
    "HandlerResolver",
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
    "SignalResponse",
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
    "api_handler",
    "batch_analyzer",
    "batch_worker",
    "decision_handler",
    "depends_on",
    "inputs",
    "step_handler",
]
