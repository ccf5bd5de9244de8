"""NATS as this project uses it: what the worker, the client, the subscriber and the orchestrator stand on.

Not part of the public API, but shared inside the project. Four parts, each the answer to something that the
plain client does not do:

- `Connection`: one link that never gives up. It reconnects for ever, builds a new client where the old one
  was closed for good, re-subscribes, and says so to whoever asked (`add_reconnect_listener`).
- `JetStreamPublisher`: publishes in order with one shared reply inbox; each message waits for its
  acknowledgement, bounded in count and bytes, with a time limit, and is sent again after a lost link.
- `PullLoop`: a standing pull on one durable consumer; near to no cost while idle, recovers from everything.
- `acknowledge`: reads the reply subject of a delivery and names the acknowledgement payloads.

A link that breaks loses what was not acknowledged. The publisher sends it again in the same order, and
`Nats-Msg-Id` makes repeats harmless; core sends (`Connection.send`) are kept over a break only if asked for.
"""

from .acknowledge import ACK, IN_PROGRESS, Delivery, delivery_of, nak
from .connection import Connection, Subscription
from .errors import (
    ConnectFailed,
    MessagingError,
    NoResponders,
    NotConnected,
    PayloadTooLarge,
    PublisherFull,
    PublishRefused,
    PublishTimeout,
    RequestTimeout,
)
from .publish import JetStreamPublisher, Outgoing, PubAck
from .pull import PullLoop

__all__ = [
    "ACK",
    "IN_PROGRESS",
    "ConnectFailed",
    "Connection",
    "Delivery",
    "JetStreamPublisher",
    "MessagingError",
    "NoResponders",
    "NotConnected",
    "Outgoing",
    "PayloadTooLarge",
    "PubAck",
    "PublishRefused",
    "PublishTimeout",
    "PublisherFull",
    "PullLoop",
    "RequestTimeout",
    "Subscription",
    "delivery_of",
    "nak",
]
