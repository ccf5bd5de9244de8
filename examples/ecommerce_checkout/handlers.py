"""The five steps of the checkout: each says what it needs, and leaves the work to a service.

`step_uuid` is the same in every try of a step, so it is the idempotency key of everything outside.
"""

from __future__ import annotations

from stepweave import StepContext, depends_on, inputs, step_handler

from . import services
from .models import CheckoutInput, Order, Payment, PriceRules, Reservation, ValidatedCart


@step_handler("ecommerce_validate_cart")
@inputs(CheckoutInput)
def validate_cart(inputs: CheckoutInput, context: StepContext) -> ValidatedCart:
    """Check the cart and calculate its price."""
    return services.price_cart(inputs.cart_items, PriceRules.model_validate(context.step_config))


@step_handler("ecommerce_process_payment")
@depends_on(cart=("validate_cart", ValidatedCart))
@inputs(CheckoutInput)
async def process_payment(cart: ValidatedCart, inputs: CheckoutInput, context: StepContext) -> Payment:
    """Charge the customer's card."""
    return await services.charge(
        inputs.payment_token,
        cart.total_cents,
        idempotency_key=context.step_uuid,
        request_number=context.attempt,
    )


@step_handler("ecommerce_update_inventory")
@depends_on(cart=("validate_cart", ValidatedCart))
def update_inventory(cart: ValidatedCart, context: StepContext) -> Reservation:
    """Reserve what was paid for. `validate_cart` is no direct dependency: any earlier step can be read."""
    return services.reserve(cart.lines, idempotency_key=context.step_uuid)


@step_handler("ecommerce_create_order")
@depends_on(
    cart=("validate_cart", ValidatedCart),
    payment=("process_payment", Payment),
    reservation=("update_inventory", Reservation),
)
@inputs("customer_email")
def create_order(
    customer_email: str, cart: ValidatedCart, payment: Payment, reservation: Reservation, context: StepContext
) -> Order:
    """Write the order with all that came before."""
    return services.save_order(customer_email, cart, payment, reservation, idempotency_key=context.step_uuid)


@step_handler("ecommerce_send_confirmation")
@depends_on(order=("create_order", Order))
def send_confirmation(order: Order, context: StepContext) -> dict[str, str]:
    """Tell the customer."""
    return services.send_mail(
        order.customer_email,
        f"Your order {order.order_id}: {order.total_cents / 100:.2f}",
        idempotency_key=context.step_uuid,
    )
