"""The five steps: the data, three reports side by side, and sending them."""

from __future__ import annotations

from datetime import date
from typing import Any

from stepweave import ServiceUnavailableError, StepContext, ValidationError, depends_on, inputs, step_handler

from . import warehouse


@step_handler("refresh_data")
@inputs("report_date")
def refresh_data(report_date: str, context: StepContext) -> dict[str, Any]:
    """Make sure that the data of the day are in."""
    try:
        date.fromisoformat(report_date)
    except ValueError as error:
        raise ValidationError(f"report_date {report_date}: {error}", error_code="INVALID_DATE") from None
    if context.attempt <= context.get_input_or("simulate", {}).get("refresh_late_for_tries", 0):
        raise ServiceUnavailableError(f"the data of {report_date} are not in yet", error_code="DATA_LATE")
    return {"report_date": report_date, "rows": warehouse.rows_of(report_date)}


@step_handler("sales_report")
@depends_on(data="refresh_data")
def sales_report(data: dict[str, Any], context: StepContext) -> dict[str, Any] | None:
    """What was sold."""
    day = data["report_date"]
    cents = warehouse.number(day, "revenue", 90_000_00)
    return _report(context, "sales", f"{data['rows']['orders']} orders, {cents / 100:,.2f} in all")


@step_handler("inventory_report")
@depends_on(data="refresh_data")
def inventory_report(data: dict[str, Any], context: StepContext) -> dict[str, Any] | None:
    """What came and went."""
    return _report(context, "inventory", f"{data['rows']['stock_moves']} stock moves")


@step_handler("customer_activity_report")
@depends_on(data="refresh_data")
def customer_activity_report(data: dict[str, Any], context: StepContext) -> dict[str, Any] | None:
    """Who came by."""
    return _report(context, "customer_activity", f"{data['rows']['visits']} visits")


def _report(context: StepContext, kind: str, text: str) -> dict[str, Any] | None:
    """One report; `None` where the schedule does not ask for it."""
    wanted = context.get_input_or("report_types", ["sales", "inventory", "customer_activity"])
    return {"kind": kind, "text": text} if kind in wanted else None


@step_handler("send_reports")
@depends_on(
    data="refresh_data", sales="sales_report", stock="inventory_report", people="customer_activity_report"
)
def send_reports(data: Any, sales: Any, stock: Any, people: Any, context: StepContext) -> dict[str, Any]:
    """One letter with all of them; `step_uuid` makes that one letter however often this is tried."""
    reports = [one for one in (sales, stock, people) if one]
    return {
        "letter_id": context.step_uuid,
        "subject": f"Reports of {data['report_date']}",
        "lines": [f"{one['kind']}: {one['text']}" for one in reports],
    }
