"""Reply subjects of deliveries, in both forms, and acknowledgements."""

from __future__ import annotations

import pytest

from stepweave.messaging import delivery_of, nak


def test_both_forms_of_the_reply_subject() -> None:
    old = delivery_of("$JS.ACK.S.c.2.30.40.1700000000000000000.5")
    new = delivery_of("$JS.ACK._.ACCHASH.S.c.2.30.40.1700000000000000000.5")
    longer = delivery_of("$JS.ACK.hub.ACCHASH.S.c.2.30.40.1700000000000000000.5.random")
    assert old == new == longer
    assert old is not None
    assert (old.stream, old.consumer, old.deliveries) == ("S", "c", 2)
    assert (old.stream_sequence, old.consumer_sequence, old.pending) == (30, 40, 5)
    assert old.stored_at_ns == 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "_INBOX.abc",
        "$JS.ACK.S.c.2.30.40",
        "$JS.ACK.S.c.x.30.40.17.5",
        "$JS.API.S.c.2.30.40.17.5",
        "$JS.ACK.a.b.c.d.e.f.g.h",
    ],
)
def test_other_subjects_are_none(reply: str) -> None:
    assert delivery_of(reply) is None


def test_nak() -> None:
    assert nak() == b"-NAK"
    assert nak(1.5) == b'-NAK {"delay": 1500000000}'
