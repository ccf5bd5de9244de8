"""The reply subject of a JetStream delivery, and what can be answered there."""

from __future__ import annotations

from typing import Final, NamedTuple

ACK: Final = b"+ACK"
IN_PROGRESS: Final = b"+WPI"


def nak(delay_seconds: float = 0.0) -> bytes:
    """The payload that hands a delivery back, to be delivered again after so many seconds."""
    if delay_seconds <= 0:
        return b"-NAK"
    return b'-NAK {"delay": %d}' % int(delay_seconds * 1e9)


class Delivery(NamedTuple):
    """What a delivery's reply subject says."""

    stream: str
    consumer: str
    #: How often the message has been delivered, this time included.
    deliveries: int
    stream_sequence: int
    consumer_sequence: int
    #: When the stream stored the message, nanoseconds since the Unix epoch.
    stored_at_ns: int
    #: How many more messages the consumer has.
    pending: int


def delivery_of(reply: str) -> Delivery | None:
    """Read a reply subject in either form; `None` where it is not one of a JetStream delivery.

    The old form is `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<time>.<pending>`; the new one has
    domain and account hash before the stream, and may have more tokens at the end.
    """
    tokens = reply.split(".")
    count = len(tokens)
    if count < 9 or tokens[0] != "$JS" or tokens[1] != "ACK":
        return None
    first = 2 if count == 9 else 4
    if count < first + 7:
        return None
    try:
        delivered, stream_sequence, consumer_sequence, stored, pending = map(
            int, tokens[first + 2 : first + 7]
        )
    except ValueError:
        return None
    return Delivery(
        tokens[first], tokens[first + 1], delivered, stream_sequence, consumer_sequence, stored, pending
    )
