"""The steps of a payment as classes, and the two that take money back.

Each tells apart what another try can mend (the gateway is silent) and what it cannot (no funds). `step_uuid` is the
same in every try of a step, so the gateway sees one authorisation, one capture, one refund.
"""

from __future__ import annotations

from typing import Any

from stepweave import (
    BusinessLogicError,
    ErrorType,
    PermanentError,
    ServiceUnavailableError,
    StepContext,
    StepHandler,
    StepHandlerResult,
)

from . import services


class ValidatePaymentRequest(StepHandler):
    """What the input schema cannot know: how much a payment method allows."""

    handler_name = "payments.validate_request"

    def call(self, context: StepContext) -> StepHandlerResult:
        amount_cents = context.get_input("amount_cents")
        method = context.get_input("payment_method")["type"]
        limit_cents = context.step_config["limit_cents"][method]
        if amount_cents > limit_cents:
            raise BusinessLogicError(
                f"a {method} pays {limit_cents} cents at most, not {amount_cents}",
                error_code="LIMIT_EXCEEDED",
            )
        return self.success({"amount_cents": amount_cents, "method": method})


class CheckFraud(StepHandler):
    """Comes before the gateway, so that there is nothing to undo."""

    handler_name = "payments.check_fraud"

    def call(self, context: StepContext) -> StepHandlerResult:
        score = services.fraud_score(
            context.get_input("amount_cents"), context.get_input_or("payments_in_last_hour", 0)
        )
        if score > context.step_config["score_max"]:
            raise PermanentError(
                "the payment looks like fraud", error_code="FRAUD_SUSPECTED", metadata={"score": score}
            )
        return self.success({"score": score})


class AuthorizePayment(StepHandler):
    """Phase one."""

    handler_name = "payments.authorize"

    def call(self, context: StepContext) -> StepHandlerResult:
        try:
            hold = services.authorize(
                context.get_input("payment_id"),
                context.get_input("payment_method"),
                context.get_input("amount_cents"),
                idempotency_key=context.step_uuid,
                request_number=context.attempt,
            )
        except services.GatewayTimeout as error:
            # Another try may get an answer. Where none does, nobody knows whether there is a hold: the step names
            # itself, so that it is undone although it never completed.
            return self.failure(
                str(error),
                ErrorType.TIMEOUT,
                error_code="GATEWAY_TIMEOUT",
                compensation_steps=["authorize_payment"],
            )
        except services.InsufficientFunds as error:
            return StepHandlerResult.permanent_failure(
                "insufficient_funds", {"message": str(error), "requires_manual_intervention": False}
            )
        except services.InvalidCard as error:
            return StepHandlerResult.permanent_failure(
                "invalid_card", {"message": str(error), "requires_manual_intervention": True}
            )
        return self.success(hold._asdict())


class CapturePayment(StepHandler):
    """Phase two: not where the payment was called off meanwhile, and never twice."""

    handler_name = "payments.capture"

    def call(self, context: StepContext) -> StepHandlerResult:
        answer = context.get_dependency_result("cancellation_window")
        if answer["cancelled"]:
            # A failure for good: what was authorised is undone.
            raise PermanentError(
                f"called off: {answer.get('reason', 'no reason given')}", error_code="PAYMENT_CANCELLED"
            )
        token = context.get_input("payment_method")["token"]
        key = context.step_uuid
        existing = services.find_capture(token, idempotency_key=key, request_number=context.attempt)
        if existing is not None:
            return self.success({**existing._asdict(), "already_captured": True})
        try:
            captured = services.capture(
                token,
                context.get_dependency_field("authorize_payment", "authorization_code"),
                idempotency_key=key,
                request_number=context.attempt,
            )
        except services.GatewayTimeout as error:
            # As above: the money may have moved, and then it has to come back.
            return self.failure(
                str(error),
                ErrorType.TIMEOUT,
                error_code="GATEWAY_TIMEOUT",
                compensation_steps=["capture_payment"],
            )
        except services.CaptureDeclined as error:
            return StepHandlerResult.permanent_failure("capture_declined", {"message": str(error)})
        return self.success({**captured._asdict(), "already_captured": False})


class RecordTransaction(StepHandler):
    """Books what was captured; while the ledger is down it is tried again, and the money waits."""

    handler_name = "payments.record_transaction"

    def call(self, context: StepContext) -> StepHandlerResult:
        amount_cents = context.get_input("amount_cents")
        entry_id = services.book(
            {"gateway": amount_cents, "merchant": -amount_cents},
            idempotency_key=context.step_uuid,
            request_number=context.attempt,
            down_for_requests=_simulated(context, "ledger_down_for_tries", 0),
        )
        return self.success({"entry_id": entry_id, "amount_cents": amount_cents})


class SendNotification(StepHandler):
    """The last step, and no reason to refund a good payment: on its last try it gives up without a failure."""

    handler_name = "payments.send_notification"

    def call(self, context: StepContext) -> StepHandlerResult:
        message = {
            "payment_id": context.get_input("payment_id"),
            "receipt": context.get_dependency_field("capture_payment", "receipt"),
        }
        try:
            delivery_id = services.call_webhook(
                message,
                idempotency_key=context.step_uuid,
                request_number=context.attempt,
                down_for_requests=_simulated(context, "webhook_down_for_tries", 0),
            )
        except ServiceUnavailableError as error:
            if not context.is_last_retry():
                raise
            return self.success({"delivered": False, "error": str(error)})
        return self.success({"delivered": True, "delivery_id": delivery_id})


# -- what undoes them --------------------------------------------------------------------------------


class VoidAuthorization(StepHandler):
    """Undoes `authorize_payment`, by the payment's id: of a hold whose answer was lost there is no code."""

    handler_name = "payments.void_authorization"

    def call(self, context: StepContext) -> StepHandlerResult:
        payment_id = context.get_input("payment_id")
        try:
            void_id = services.void(
                payment_id,
                idempotency_key=context.step_uuid,
                refused=_simulated(context, "void_refused", False),
            )
        except services.VoidRefused as error:
            return StepHandlerResult.permanent_failure("void_refused", {"message": str(error)})
        return self.success({"voided": True, "void_id": void_id, "payment_id": payment_id})


class Refund(StepHandler):
    """Undoes `capture_payment`, by the payment's id as well."""

    handler_name = "payments.refund"

    def call(self, context: StepContext) -> StepHandlerResult:
        amount_cents = context.get_input("amount_cents")
        refund_id = services.refund(
            context.get_input("payment_id"), amount_cents, idempotency_key=context.step_uuid
        )
        return self.success({"refund_id": refund_id, "amount_cents": amount_cents})


def _simulated(context: StepContext, key: str, default: Any) -> Any:
    return context.get_input_or("simulate", {}).get(key, default)
