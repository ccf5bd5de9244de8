"""Connection, publisher and pull loop against a real nats-server, killed and restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig

from stepweave.messaging import (
    ACK,
    ConnectFailed,
    Connection,
    JetStreamPublisher,
    NoResponders,
    NotConnected,
    Outgoing,
    PayloadTooLarge,
    PublisherFull,
    PublishRefused,
    PublishTimeout,
    PullLoop,
    RequestTimeout,
    delivery_of,
)
from stepweave.testing import eventually
from stepweave_orchestrator.embedded import EmbeddedNats


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with EmbeddedNats(tmp_path / "nats") as nats:
        yield nats


@pytest.fixture
async def connection(server: EmbeddedNats) -> AsyncIterator[Connection]:
    async with await Connection.open(server.url, name="test") as link:
        yield link


def jetstream(connection: Connection) -> JetStreamContext:
    context: JetStreamContext = connection.client.jetstream()
    return context


async def make_stream(connection: Connection, *, work: bool = True) -> None:
    retention = RetentionPolicy.WORK_QUEUE if work else RetentionPolicy.LIMITS
    await jetstream(connection).add_stream(StreamConfig(name="S", subjects=["s.>"], retention=retention))


async def make_consumer(connection: Connection, ack_wait: float = 30.0) -> None:
    config = ConsumerConfig(durable_name="c", ack_policy=AckPolicy.EXPLICIT, ack_wait=ack_wait)
    await jetstream(connection).add_consumer("S", config)


class Taker:
    """Collects what a pull loop hands over, and acks it."""

    def __init__(self, connection: Connection, *, ack: bool = True) -> None:
        self.connection = connection
        self.ack = ack
        self.messages: list[Msg] = []

    def __call__(self, messages: list[Msg]) -> None:
        self.messages += messages
        if self.ack:
            for message in messages:
                self.connection.send(message.reply, ACK, keep=True)

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.messages]


async def test_connecting_to_nothing_says_where_and_what_to_do() -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1 within 0\.3 s .*set NATS_URL") as caught:
        await Connection.open("nats://someone:secret@127.0.0.1:1", name="t", connect_timeout_seconds=0.3)
    assert "secret" not in str(caught.value)


async def test_wrong_credentials_fail_at_once(server: EmbeddedNats) -> None:
    url = server.url.replace("@", "wrong@")
    with pytest.raises(ConnectFailed, match="refuses the credentials"):
        await asyncio.wait_for(Connection.open(url, name="t", connect_timeout_seconds=30), 5)


async def test_request_answers_and_errors(connection: Connection) -> None:
    def answer(message: Msg) -> None:
        connection.send(message.reply, message.data.upper())

    await connection.subscribe("up", answer)
    await connection.subscribe("silent", lambda _: None)
    reply = await connection.request("up", b"abc", timeout_seconds=5)
    assert reply.data == b"ABC"
    with pytest.raises(NoResponders, match="nobody answers on nowhere"):
        await connection.request("nowhere", timeout_seconds=5)
    with pytest.raises(RequestTimeout, match="silent"):
        await connection.request("silent", timeout_seconds=0.05)


async def test_a_message_over_the_limit_is_refused_here_and_the_link_stays(connection: Connection) -> None:
    limit = connection.max_payload_bytes
    with pytest.raises(PayloadTooLarge, match=f"{limit + 1} bytes"):
        connection.send("x", b"x" * (limit + 1))
    with pytest.raises(PayloadTooLarge):
        connection.send("x", b"x" * (limit - 5), headers={"a": "b"})
    await connection.flush()
    assert connection.reconnects == 0


async def test_a_handler_that_raises_does_not_stop_the_link(connection: Connection) -> None:
    seen: list[bytes] = []

    def handler(message: Msg) -> None:
        seen.append(message.data)
        raise RuntimeError("a bug")

    await connection.subscribe("a", handler)
    connection.send("a", b"1")
    connection.send("a", b"2")
    await connection.flush()
    assert seen == [b"1", b"2"]


async def test_publish_in_order_with_ids_and_bounds(connection: Connection) -> None:
    await make_stream(connection, work=False)
    async with JetStreamPublisher(connection, waiting_messages_max=10) as publisher:
        first = await publisher.publish("s.1", b"a", msg_id="one")
        again = await publisher.publish("s.1", b"a", msg_id="one")
        assert (first.seq, first.duplicate, again.seq, again.duplicate) == (1, False, 1, True)

        acks = await publisher.publish_all(Outgoing("s.2", b"%d" % n, f"n{n}") for n in range(9))
        assert [ack.seq for ack in acks] == list(range(2, 11))
        assert await publisher.publish_all([]) == []

        burst = publisher.publish_all([Outgoing("s.2", b"x")] * 10)
        assert publisher.full
        with pytest.raises(PublisherFull, match="10 messages"):
            publisher.publish("s.2", b"y")
        await asyncio.wait_for(publisher.room(), 5)
        await burst
        assert publisher.waiting_count == publisher.waiting_bytes == 0
        with pytest.raises(PayloadTooLarge):
            publisher.publish("s.1", b"x" * (connection.max_payload_bytes + 1))
        assert publisher.waiting_count == 0
    with pytest.raises(NotConnected):
        publisher.publish("s.1", b"late")


async def test_publish_refused_and_given_up(connection: Connection) -> None:
    await make_stream(connection, work=False)
    async with JetStreamPublisher(connection, ack_timeout_seconds=0.1, give_up_seconds=0.4) as publisher:
        with pytest.raises(PublishRefused, match=r"s\.1") as refused:
            await publisher.publish("s.1", b"a", headers={"Nats-Expected-Stream": "OTHER"})
        assert refused.value.err_code
        with pytest.raises(PublishTimeout, match="no-such-stream"):
            await publisher.publish("no-such-stream", b"a")
        # One bad message in a burst fails the burst, not the others.
        burst = publisher.publish_all(
            [Outgoing("s.1", b"1"), Outgoing("s.1", b"2", headers={"Nats-Expected-Stream": "X"})]
        )
        with pytest.raises(PublishRefused):
            await burst
        assert await publisher.drain(5)
    info = await jetstream(connection).stream_info("S")
    assert info.state.messages == 1


async def test_publishes_survive_a_kill_in_order(server: EmbeddedNats, connection: Connection) -> None:
    await make_stream(connection, work=False)
    total = 3_000
    async with JetStreamPublisher(connection) as publisher:
        futures = [publisher.publish("s.1", b"%d" % n, msg_id=f"m{n}") for n in range(500)]
        await server.kill()
        futures += [publisher.publish("s.1", b"%d" % n, msg_id=f"m{n}") for n in range(500, 1500)]
        await server.start()
        futures += [publisher.publish("s.1", b"%d" % n, msg_id=f"m{n}") for n in range(1500, total)]
        await asyncio.wait_for(asyncio.gather(*futures), 30)
    assert connection.reconnects == 1
    taker = Taker(connection)
    await make_consumer(connection)
    loop = PullLoop(connection, "S", "c", batch=500, on_messages=taker)
    await loop.start()
    await eventually(lambda: len(taker.messages) >= total)
    await loop.stop()
    # A message that was stored while its acknowledgement was lost may stand there twice, never out of order.
    first_seen = list(dict.fromkeys(int(data) for data in taker.data))
    assert first_seen == list(range(total))


async def test_pull_keeps_pulling_within_the_demand(connection: Connection) -> None:
    await make_stream(connection)
    await make_consumer(connection)
    taker = Taker(connection)
    capacity = 7
    loop = PullLoop(connection, "S", "c", batch=5, on_messages=taker, demand=lambda: capacity)
    await loop.start()
    async with JetStreamPublisher(connection) as publisher:
        await publisher.publish_all(Outgoing("s.1", b"%d" % n) for n in range(100))
        await eventually(lambda: len(taker.messages) == 100)
        assert taker.data == [b"%d" % n for n in range(100)]

        capacity = 0
        await eventually(lambda: loop.outstanding <= 5)
        asked = loop.outstanding
        await publisher.publish_all(Outgoing("s.1", b"late") for n in range(20))
        await eventually(lambda: loop.outstanding == 0)
        await connection.flush()
        assert len(taker.messages) == 100 + asked
        capacity = 5
        loop.nudge()
        await eventually(lambda: len(taker.messages) == 120)
    await loop.stop()


async def test_pull_waits_for_a_missing_consumer_and_a_deleted_one(connection: Connection) -> None:
    taker = Taker(connection)
    loop = PullLoop(connection, "S", "c", batch=5, on_messages=taker)
    await loop.start()
    await eventually(lambda: loop.missing)
    await make_stream(connection)
    await make_consumer(connection)
    async with JetStreamPublisher(connection) as publisher:
        await publisher.publish("s.1", b"1")
        await eventually(lambda: taker.data == [b"1"])
        assert not loop.missing

        async def acknowledged() -> bool:
            return (await jetstream(connection).stream_info("S")).state.messages == 0

        # Before that, the next consumer of the name would be given it once more.
        await eventually(acknowledged)
        await jetstream(connection).delete_consumer("S", "c")
        await eventually(lambda: loop.missing)
        await publisher.publish("s.1", b"2")
        await make_consumer(connection)
        await eventually(lambda: taker.data == [b"1", b"2"])
    await loop.stop()


async def test_pull_goes_on_after_a_kill(server: EmbeddedNats, connection: Connection) -> None:
    await make_stream(connection)
    await make_consumer(connection)
    taker = Taker(connection)
    loop = PullLoop(connection, "S", "c", batch=5, on_messages=taker)
    await loop.start()
    async with JetStreamPublisher(connection) as publisher:
        for round_number in range(3):
            await publisher.publish("s.1", b"%d" % round_number)
            await eventually(lambda: len(taker.messages) == round_number + 1)  # noqa: B023
            await connection.flush()
            await server.kill()
            await eventually(lambda: not connection.connected)
            await server.start()
            await eventually(lambda: connection.connected)
        await publisher.publish("s.1", b"end")
        await eventually(lambda: taker.data[-1:] == [b"end"])
    await loop.stop()


async def test_a_pull_that_expires_is_renewed(connection: Connection) -> None:
    await make_stream(connection)
    await make_consumer(connection)
    taker = Taker(connection)
    loop = PullLoop(
        connection, "S", "c", batch=5, on_messages=taker, expires_seconds=0.3, idle_heartbeat_seconds=0.1
    )
    await loop.start()
    await eventually(lambda: loop.pulls_count >= 3)
    async with JetStreamPublisher(connection) as publisher:
        await publisher.publish("s.1", b"1")
    await eventually(lambda: taker.data == [b"1"])
    await loop.stop()


async def test_stopping_a_busy_pull_loses_no_delivery(connection: Connection, server: EmbeddedNats) -> None:
    """A pull that stops hands over what was delivered to it; the rest is a first delivery for the next."""
    await make_stream(connection)
    await make_consumer(connection)
    total = 4_000
    async with JetStreamPublisher(connection) as publisher:
        await publisher.publish_all(Outgoing("s.1", b"%d" % n) for n in range(total))
    taken: list[Msg] = []
    stops = 0
    while len(taken) < total:
        stops += 1
        async with await Connection.open(server.url, name="other") as other:
            taker = Taker(other)
            loop = PullLoop(other, "S", "c", batch=300, on_messages=taker)
            await loop.start()
            await eventually(lambda: taker.messages, what="a delivery")  # noqa: B023
            await loop.stop()
            taken += taker.messages
    deliveries = [delivery_of(message.reply) for message in taken]
    assert stops > 3
    assert [d.deliveries for d in deliveries if d is not None] == [1] * total


async def test_a_client_closed_for_good_is_replaced(connection: Connection) -> None:
    await make_stream(connection)
    await make_consumer(connection)
    taker = Taker(connection)
    loop = PullLoop(connection, "S", "c", batch=5, on_messages=taker)
    await loop.start()
    async with JetStreamPublisher(connection) as publisher:
        await publisher.publish("s.1", b"1")
        await eventually(lambda: len(taker.messages) == 1)
        old = connection.client
        # The server answers with -ERR 'Maximum Payload Violation': nats-py then closes the client for good.
        await old._send_command(b"PUB x 99999999\r\n")
        await old._flush_pending()
        await eventually(lambda: connection.connected and connection.client is not old)
        await publisher.publish("s.1", b"2")
        await eventually(lambda: len(taker.messages) == 2)
        assert (await connection.request("$JS.API.INFO", timeout_seconds=5)).data
    await loop.stop()


async def test_kept_sends_wait_for_the_link(server: EmbeddedNats, connection: Connection) -> None:
    seen: list[bytes] = []
    await connection.subscribe("a", lambda message: seen.append(message.data))
    await server.kill()
    await eventually(lambda: not connection.connected)
    connection.send("a", b"dropped")
    connection.send("a", b"kept", keep=True)
    with pytest.raises(NotConnected, match=r"0\.05 s"):
        await connection.request("a", timeout_seconds=0.05)
    await server.start()
    await connection.wait_connected(10)
    await connection.flush()
    assert seen == [b"kept"]


async def test_closing_twice_and_without_a_server(server: EmbeddedNats) -> None:
    link = await Connection.open(server.url, name="t")
    await server.kill()
    await asyncio.wait_for(link.close(), 5)
    await link.close()
    with pytest.raises(NotConnected):
        await link.subscribe("a", lambda _: None)
