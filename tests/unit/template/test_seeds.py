"""The templates of the documents that the project came from load, each in its own dialect."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepweave_schemas.template import (
    LoadedTemplate,
    load_template,
    load_template_file,
    load_templates_dir,
    topological_order,
)

DATA = Path(__file__).parent / "data"


def load(name: str) -> LoadedTemplate:
    return load_template_file(DATA / f"{name}.yaml")


def test_order_fulfilment() -> None:
    loaded = load("order_fulfillment")
    assert loaded.warnings == ()
    template = loaded.template
    assert template.reference == "fulfillment/order_fulfillment:1.0.0"
    assert topological_order(template) == (
        "validate_order",
        "check_inventory",
        "process_payment",
        "reserve_inventory",
        "ship_order",
        "send_confirmation",
    )
    ship = template.steps[4]
    assert ship.dependencies == ("reserve_inventory", "process_payment")
    assert (ship.retry.retryable, ship.retry.max_attempts) == (False, 1)
    assert ship.handler.callable == "ship_order"
    assert template.steps[1].retry.backoff_base_ms == 2_000


def test_rails_dialect() -> None:
    loaded = load("process_order")
    assert loaded.warnings == ()
    assert loaded.template.canonical() == {
        "namespace": "ecommerce",
        "name": "process_order",
        "version": "1.0.0",
        "steps": [
            {"name": "validate_cart", "handler": {"callable": "Ecommerce::ValidateCartHandler"}},
            {
                "name": "process_payment",
                "handler": {"callable": "Ecommerce::ProcessPaymentHandler"},
                "dependencies": ["validate_cart"],
            },
            {
                "name": "send_confirmation",
                "handler": {"callable": "Ecommerce::SendConfirmationHandler"},
                "dependencies": ["process_payment"],
            },
        ],
    }


def test_checkout() -> None:
    template = load("ecommerce_order_processing").template
    assert [step.name for step in template.steps] == list(topological_order(template))
    assert {step.retry.max_attempts for step in template.steps} == {2}
    assert template.steps[0].retry.backoff_base_ms == 100
    assert template.steps[2].retry.backoff_base_ms == 1_000


def test_diamond_with_delays_in_seconds() -> None:
    template = load("user_registration").template
    welcome = template.steps[3]
    assert welcome.dependencies == ("setup_billing_profile", "initialize_preferences")
    assert (welcome.retry.backoff_base_ms, welcome.retry.max_backoff_ms) == (2_000, 20_000)


@pytest.mark.parametrize("file", sorted(DATA.glob("*.yaml")), ids=lambda file: file.stem)
def test_canonical_form_loads_to_the_same(file: Path) -> None:
    template = load_template_file(file).template
    again = load_template(template.canonical_json())
    assert again.template == template
    assert again.template.content_hash() == template.content_hash()


def test_the_whole_folder() -> None:
    assert [loaded.template.name for loaded in load_templates_dir(DATA)] == [
        "ecommerce_order_processing",
        "order_fulfillment",
        "process_order",
        "user_registration",
    ]
