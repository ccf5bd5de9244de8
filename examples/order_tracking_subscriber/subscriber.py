"""Reacts to orders: completed ones and payments are counted, failed payments wake somebody up.

Run it as a script, with `NATS_URL` naming the NATS server.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

from stepweave import BaseSubscriber


class Analytics:
    """Stands for an analytics service: prints what it is told."""

    @staticmethod
    def track(what: str, properties: Mapping[str, Any]) -> None:
        _say(f"analytics: {what} {json.dumps(properties)}")


class SlackNotifier:
    """Stands for a chat: prints what it is told."""

    @staticmethod
    def urgent_alert(text: str) -> None:
        _say(f"slack: {text}")


class OrderTrackingSubscriber(BaseSubscriber):
    subscribe_to = ("task.completed", "step.failed", "domain.payment.charged")

    def handle_task_completed(self, event: Mapping[str, Any]) -> None:
        if event["task_name"] != "process_order":
            return
        Analytics.track("order_completed", event["context"])

    def handle_domain_payment_charged(self, event: Mapping[str, Any]) -> None:
        Analytics.track("payment_charged", event["payload"])

    def handle_step_failed(self, event: Mapping[str, Any]) -> None:
        if event["task_name"] == "process_order" and event["step_name"] == "process_payment":
            SlackNotifier.urgent_alert(
                f"Payment failure for order {event['context'].get('order_id')}: {event['error_message']}"
            )


def _say(text: str) -> None:
    # One write for the whole line: events of different tasks are handled at the same time, in threads.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # The first start begins with what has happened already; every later one goes on where the last one stopped.
    asyncio.run(OrderTrackingSubscriber().run(start="all"))
