"""The six steps of the fulfilment as classes, each telling apart what a retry can mend and what it cannot.

A fresh object runs every try. `context.configuration` is the task's input, `context.parent_results` has the
results of all earlier steps.
"""

from __future__ import annotations

from stepweave import StepContext, StepHandler, StepHandlerResult

from . import services


class ValidateOrderHandler(StepHandler):
    """Adds the order up and looks at the customer."""

    handler_name = "validate_order"

    def call(self, context: StepContext) -> StepHandlerResult:
        order = context.configuration
        try:
            total_cents = services.total_cents(order["items"])
        except services.UnknownArticle as error:
            return StepHandlerResult.permanent_failure("unknown_article", {"message": str(error)})
        score = services.fraud_score(order["customer_id"], total_cents)
        if score > services.FRAUD_SCORE_MAX:
            return StepHandlerResult.permanent_failure(
                "fraud_detected", {"reason": "High fraud risk", "score": score}
            )
        return StepHandlerResult.success(
            {"order_id": order["order_id"], "total_cents": total_cents, "fraud_score": score}
        )


class InventoryCheckHandler(StepHandler):
    """Asks the warehouse whether everything is there."""

    handler_name = "check_inventory"

    def call(self, context: StepContext) -> StepHandlerResult:
        missing = services.missing_units(context.configuration["items"])
        if missing:
            listed = ", ".join(f"{count} × {sku}" for sku, count in missing.items())
            return StepHandlerResult.permanent_failure(
                "insufficient_inventory", {"message": f"not in the warehouse: {listed}", "missing": missing}
            )
        return self.success({"available": True})


class InventoryReservationHandler(StepHandler):
    """Sets the units aside."""

    handler_name = "reserve_inventory"

    def call(self, context: StepContext) -> StepHandlerResult:
        try:
            reservation_id = services.reserve(
                context.configuration["items"],
                idempotency_key=context.step_uuid,
                request_number=context.attempt,
            )
        except services.ShelfLocked as error:
            return StepHandlerResult.retryable_failure("shelf_locked", {"message": str(error)})
        return self.success({"reservation_id": reservation_id})


class PaymentProcessingHandler(StepHandler):
    """Charges the customer; the gateway takes `step_uuid` as the idempotency key, so never twice."""

    handler_name = "process_payment"

    def call(self, context: StepContext) -> StepHandlerResult:
        amount_cents = context.parent_results["validate_order"]["total_cents"]
        try:
            transaction_id = services.charge(
                context.configuration["payment_method"],
                amount_cents,
                idempotency_key=context.step_uuid,
                request_number=context.attempt,
            )
        except services.GatewayUnreachable as error:
            return StepHandlerResult.retryable_failure(
                "network_error", {"message": str(error), "retry_recommended": True}
            )
        except services.PaymentRefused as error:
            return StepHandlerResult.permanent_failure(error.code, {"message": str(error)})
        return self.success(
            {"transaction_id": transaction_id, "amount_cents": amount_cents},
            metadata={"gateway_requests": context.attempt},
        )


class ShippingHandler(StepHandler):
    """Orders the pick-up, once both the goods and the money are there."""

    handler_name = "ship_order"

    def call(self, context: StepContext) -> StepHandlerResult:
        ship_to = context.configuration["ship_to"]
        try:
            tracking_number = services.ship(
                context.configuration["order_id"], ship_to["country"], express=ship_to.get("express", False)
            )
        except services.AddressNotServed as error:
            return StepHandlerResult.permanent_failure("address_not_served", {"message": str(error)})
        except services.CarrierDown as error:
            # A retry could mend it, but the template allows this step none.
            return StepHandlerResult.retryable_failure("carrier_down", {"message": str(error)})
        return self.success(
            {
                "tracking_number": tracking_number,
                "reservation_id": context.parent_results["reserve_inventory"]["reservation_id"],
            }
        )


class EmailNotificationHandler(StepHandler):
    """Tells the customer; the mail server may say when it wants the next try."""

    handler_name = "send_confirmation"

    def call(self, context: StepContext) -> StepHandlerResult:
        shipped, paid = context.parent_results["ship_order"], context.parent_results["process_payment"]
        recipient = context.configuration["customer_email"]
        subject = (
            f"Order {context.configuration['order_id']}: {paid['amount_cents'] / 100:.2f} paid,"
            f" parcel {shipped['tracking_number']} is on its way"
        )
        try:
            message_id = services.send_mail(recipient, subject, request_number=context.attempt)
        except services.Greylisted as error:
            return StepHandlerResult.retryable_failure(
                "greylisted", {"message": str(error)}, retry_after=error.seconds
            )
        return self.success({"message_id": message_id, "recipient": recipient, "subject": subject})
