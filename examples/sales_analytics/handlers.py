"""The eight steps: three extracts, three transforms, and the two that see everything.

All are functions: the parameters say what a step needs, and their types what it gets. Rows stay in files; results
carry what the next step reads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Any, Final

from stepweave import (
    PermanentError,
    ServiceUnavailableError,
    StepContext,
    ValidationError,
    depends_on,
    inputs,
    step_handler,
)

from . import exports
from .models import Customers, Extract, Inventory, Metrics, Period, Product, Sales

SALES_COLUMNS: Final = ("order_id", "day", "product", "customer_id", "quantity", "amount_cents")
INVENTORY_COLUMNS: Final = ("warehouse", "product", "on_hand")
CUSTOMER_COLUMNS: Final = ("customer_id", "segment")

# -- extract: one source, one file -----------------------------------------------------------------


@step_handler("extract_sales")
@inputs(Period)
def extract_sales(inputs: Period, context: StepContext) -> Extract:
    """The orders of the period."""
    try:
        last_day = date.fromisoformat(inputs.last_day)
    except ValueError as error:
        raise ValidationError(f"last_day {inputs.last_day}: {error}", error_code="INVALID_DATE") from None
    missing = context.get_input_or("simulate", {}).get("sales_export_without")
    columns = [column for column in SALES_COLUMNS if column != missing]
    return _extract(context, "sales.csv", columns, exports.sales(inputs.orders, last_day, inputs.days))


@step_handler("extract_inventory")
def extract_inventory(context: StepContext) -> Extract:
    """What is on the shelves; the system is down for as many tries as the input says."""
    if context.attempt <= context.get_input_or("simulate", {}).get("inventory_down_for_tries", 0):
        raise ServiceUnavailableError("the inventory system answers 503", error_code="INVENTORY_UNAVAILABLE")
    return _extract(context, "inventory.csv", INVENTORY_COLUMNS, exports.inventory())


@step_handler("extract_customers")
def extract_customers(context: StepContext) -> Extract:
    """Who the customers are."""
    return _extract(context, "customers.csv", CUSTOMER_COLUMNS, exports.customers())


def _extract(
    context: StepContext, file: str, columns: Iterable[str], rows: Iterable[dict[str, str]]
) -> Extract:
    return Extract(file, exports.write(exports.folder_of(context) / file, list(columns), rows))


# -- transform: one file, a few numbers ------------------------------------------------------------


@step_handler("transform_sales")
@depends_on(extract=("extract_sales", Extract))
def transform_sales(extract: Extract, context: StepContext) -> Sales:
    """Add the orders up, by product and by customer."""
    rows = _rows(extract, SALES_COLUMNS, context)
    units, by_product, by_customer = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        units[row["product"]] += int(row["quantity"])
        by_product[row["product"]] += int(row["amount_cents"])
        by_customer[row["customer_id"]] += int(row["amount_cents"])
    return Sales(len(rows), dict(units), dict(by_product), dict(by_customer))


@step_handler("transform_inventory")
@depends_on(extract=("extract_inventory", Extract))
def transform_inventory(extract: Extract, context: StepContext) -> Inventory:
    """Add the warehouses up."""
    on_hand = Counter[str]()
    for row in _rows(extract, INVENTORY_COLUMNS, context):
        on_hand[row["product"]] += int(row["on_hand"])
    return Inventory(dict(on_hand))


@step_handler("transform_customers")
@depends_on(extract=("extract_customers", Extract))
def transform_customers(extract: Extract, context: StepContext) -> Customers:
    """Keep what matters here: the segment."""
    rows = _rows(extract, CUSTOMER_COLUMNS, context)
    return Customers({row["customer_id"]: row["segment"] for row in rows})


def _rows(extract: Extract, wanted: Iterable[str], context: StepContext) -> list[dict[str, str]]:
    columns, rows = exports.read(exports.folder_of(context) / extract.file)
    missing = sorted(set(wanted) - set(columns))
    if missing:
        # The next try would read the same file.
        raise PermanentError(
            f"{extract.file} has no column {', '.join(missing)}; it has {', '.join(columns)}",
            error_code="SCHEMA_MISMATCH",
            metadata={"missing": missing},
        )
    return rows


# -- bring together --------------------------------------------------------------------------------


@step_handler("aggregate_metrics")
@depends_on(
    sales=("transform_sales", Sales),
    inventory=("transform_inventory", Inventory),
    customers=("transform_customers", Customers),
)
@inputs(Period)
def aggregate_metrics(sales: Sales, inventory: Inventory, customers: Customers, inputs: Period) -> Metrics:
    """What needs more than one source: how long the stock lasts, and which segment brings how much."""
    products = {}
    for name, on_hand in sorted(inventory.on_hand.items()):
        units = sales.units.get(name, 0)
        products[name] = Product(
            units=units,
            cents=sales.cents_by_product.get(name, 0),
            on_hand=on_hand,
            days_of_stock=round(on_hand * inputs.days / units, 1) if units else None,
        )
    by_segment = Counter[str]()
    for customer, cents in sales.cents_by_customer.items():
        by_segment[customers.segments.get(customer, "unknown")] += cents
    return Metrics(
        orders=sales.orders,
        cents=sum(sales.cents_by_product.values()),
        products=products,
        cents_by_segment=dict(by_segment),
    )


@step_handler("generate_insights")
@depends_on(metrics=("aggregate_metrics", Metrics))
def generate_insights(metrics: Metrics, context: StepContext) -> dict[str, Any]:
    """Say in words what the numbers mean, and leave a report beside the exports."""
    insights = _insights(metrics, context.step_config["days_of_stock_min"])
    folder = exports.folder_of(context)
    with exports.whole(folder / "report.json") as unfinished:
        unfinished.write_text(json.dumps(insights, indent=2) + "\n", encoding="utf-8")
    return {"insights": insights, "report": str(folder / "report.json")}


def _insights(metrics: Metrics, days_of_stock_min: float) -> list[str]:
    if not metrics.orders:
        return ["Nothing was sold in this period."]
    best = max(metrics.products, key=lambda name: metrics.products[name].cents)
    segment = max(metrics.cents_by_segment, key=lambda name: metrics.cents_by_segment[name])
    share = metrics.cents_by_segment[segment] / metrics.cents
    found = [
        f"{metrics.orders} orders brought {metrics.cents / 100:,.2f}.",
        f"{best} brings the most: {metrics.products[best].cents / 100:,.2f}.",
        f"The {segment} segment stands for {share:.0%} of it.",
    ]
    for name, product in metrics.products.items():
        if product.days_of_stock is not None and product.days_of_stock < days_of_stock_min:
            found.append(f"Order {name}: {product.on_hand} left, enough for {product.days_of_stock:g} days.")
    return found
