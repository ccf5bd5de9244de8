"""Stories about what steps publish besides their results."""

from __future__ import annotations

from typing import Final

from tests.unit.core.scenario import (
    Scenario,
    checkpointed,
    completed,
    enqueued,
    fail,
    not_published,
    published,
    retry,
    save,
    say,
    succeed,
    task_completed,
    wake,
)
from tests.unit.core.templates import EVERY_SECOND, step

from stepweave_schemas.template import TaskTemplate

from .stories import Stories, begun, recorder

DOMAIN_EVENT_STORIES: Final[Stories] = {}
recorded: Final = recorder(DOMAIN_EVENT_STORIES)


@recorded(
    "domain_events",
    "a try fails, the next one saves its progress and succeeds; each publishes what its conditions say",
    step(
        "pay",
        retry=EVERY_SECOND,
        publishes_events=[
            {"name": "order.paid", "delivery": "fast"},
            {"name": "payment.failed", "condition": "failure"},
        ],
    ),
    domain_events=[{"name": "stock.low"}],
)
def _domain_events(made: TaskTemplate) -> Scenario:
    scenario = begun(made, enqueued("pay")).later(10)
    scenario.when(fail("pay", error_code="CARD", domain_events=(say("stock.low"),)))
    scenario.then(retry("pay"), published("pay", "payment.failed", outcome="retryable_failure"))
    scenario.later(1_000).when(wake()).then(enqueued("pay", 2))
    said = (say("stock.low", {"left": 2}), say("stock.gone", 1))
    scenario.later(10).when(save("pay", 1, items_processed=1, domain_events=said)).then(
        checkpointed("pay", 2),
        published("pay", "stock.low", 2, payload={"left": 2}, outcome="checkpoint"),
        not_published("pay", "stock.gone", "undeclared", 2),
        enqueued("pay", 2),
    )
    return (
        scenario.later(10)
        .when(succeed("pay", result={"amount": 5}))
        .then(completed("pay", 2), published("pay", "order.paid", 2, payload={"amount": 5}), task_completed())
    )
