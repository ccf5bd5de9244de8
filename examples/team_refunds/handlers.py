"""Both teams' handlers, for one worker on one machine.

In earnest each team runs workers of its own: `stepweave worker run examples/team_refunds/payments.py --namespace
payments`, and the other one so, too. Neither has the other's code.
"""

from .customer_success import (
    approve_refund,
    check_refund_policy,
    close_ticket,
    notify_customer,
    validate_refund_request,
)
from .payments import check_refund_eligibility, refund_at_gateway, update_refund_records

__all__ = [
    "approve_refund",
    "check_refund_eligibility",
    "check_refund_policy",
    "close_ticket",
    "notify_customer",
    "refund_at_gateway",
    "update_refund_records",
    "validate_refund_request",
]
