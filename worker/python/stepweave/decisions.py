"""Steps that decide which branches of a workflow exist.

    @decision_handler("routing_decision")
    @inputs("amount")
    def routing_decision(amount):
        if amount < 1_000:
            return Decision.route("auto_approve", route_type="automatic", amount=amount)
        return Decision.route(["manager_approval", "finance_review"], route_type="dual", amount=amount)

A decision names steps that the template declares below it; those come to exist, the others never do. Its routing
context is its result: whatever depends on the decision reads `route_type` as of any other step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .context import StepContext
from .error_types import ErrorType
from .errors import ConfigurationError
from .handlers import StepHandler
from .results import StepHandlerResult, check_names, check_object, check_reason
from .roles import HandlerRole, kind_of


class Decision(StepHandlerResult, frozen=True, kw_only=True):
    """What a decision step ended in: branches, or none."""

    @classmethod
    def route(cls, steps: str | Iterable[str], **routing_context: Any) -> Decision:
        """Take these branches: the name of one step, or several (each counts once).

        The step's result is `routing_context` as it is. Raises `ConfigurationError` where no step is named, or
        something that is no name.
        """
        return cls._routed(steps, routing_context)

    @classmethod
    def skip(cls, reason: str, **routing_context: Any) -> Decision:
        """Take no branch. The step's result is `routing_context` and the `reason`, which is for people.

        Raises `ConfigurationError` without a reason.
        """
        return cls._skipped(reason, routing_context)

    @classmethod
    def _routed(
        cls, steps: str | Iterable[str], result: dict[str, Any], metadata: Mapping[str, Any] | None = None
    ) -> Decision:
        names = check_names(steps, "steps of the decision")
        if not names:
            raise ConfigurationError(
                "the decision names no step: to take no branch, return Decision.skip(reason) or"
                " skip_branches(reason)",
                error_code="DECISION_INVALID",
            )
        return cls(is_success=True, result=result, metadata=dict(metadata or {}), decision_steps=names)

    @classmethod
    def _skipped(
        cls, reason: str, result: dict[str, Any], metadata: Mapping[str, Any] | None = None
    ) -> Decision:
        return cls(
            is_success=True,
            result={"reason": check_reason(reason, "a decision that takes no branch"), **result},
            metadata=dict(metadata or {}),
            decision_steps=[],
            reason=reason,
        )


class DecisionMixin:
    """What a handler class needs to decide; `DecisionHandler` is `StepHandler` with it."""

    def decision_success(
        self,
        steps: str | Iterable[str],
        routing_context: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        result_data: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Take these branches, as `Decision.route`.

        The step's result is the routing context, with `result_data` over it where both are given.
        """
        result = check_object(routing_context, "routing_context") | check_object(result_data, "result_data")
        return Decision._routed(steps, result, metadata)

    def skip_branches(
        self,
        reason: str,
        routing_context: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Take no branch, as `Decision.skip`; a `reason` in the routing context wins in the result."""
        return Decision._skipped(reason, check_object(routing_context, "routing_context"), metadata)

    def decision_failure(
        self,
        message: str,
        error_type: ErrorType | str | None = None,
        error_code: str | None = None,
        retryable: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> StepHandlerResult:
        """Nothing can be decided: a permanent failure, unless `error_type` or `retryable` says otherwise."""
        if error_type is None and retryable is None:
            retryable = False
        return StepHandlerResult.failure(
            message, error_type, retryable, error_code=error_code, metadata=metadata
        )


class DecisionHandler(DecisionMixin, StepHandler):
    """Base of decisions that are classes: `call` returns `self.decision_success(...)` or `self.skip_branches(...)`."""


class DecisionRole(HandlerRole):
    """Of functions under `@decision_handler`: whatever they return is a decision."""

    def after(self, context: StepContext, value: Any) -> StepHandlerResult:
        """The decision; raises `ConfigurationError` where the function returned something else."""
        if isinstance(value, StepHandlerResult) and (
            value.is_decision or value.is_checkpoint or not value.is_success
        ):
            return value
        raise ConfigurationError(
            f"the decision handler of step {context.step_name!r} returns Decision.route(steps, ...) or"
            f" Decision.skip(reason, ...), not {kind_of(value)}",
            error_code="DECISION_MISSING",
        )
