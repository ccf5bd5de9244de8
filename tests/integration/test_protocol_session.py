"""The session in `worker/PROTOCOL.md`, typed line by line on a real server."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from stepweave_schemas import codec

TEXT = (Path(__file__).parents[2] / "worker/PROTOCOL.md").read_text()
#: Lines of the session's blocks, the typed ones and the answers.
LINES = [
    line for block in re.findall(r"```console\n(.+?)```", TEXT, re.DOTALL) for line in block.splitlines()
]
_RECEIVED = re.compile(r'\[#(\d+)\] Received on "(\S+)" with reply "(\S+)"')
#: The session waits for the lease to run out; a test need not wait for so long.
_WRITTEN_ACK_WAIT, _SHORT_ACK_WAIT = '"ack_wait":30000000000', '"ack_wait":2000000000'
_TIMEOUT_SECONDS = 60


class _Terminal:
    """Does what the `nats` tool does with a line, and compares what comes with what the text says."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.listening: dict[str, Subscription] = {}
        #: Reply subjects as written → as received; they differ in the time of storing.
        self.replies: dict[str, str] = {}
        self.answer: Msg | None = None
        self.received = 0

    async def type(self, line: str) -> None:
        words = shlex.split(line.removeprefix("$ nats "))
        subject = self.replies.get(words[1], words[1])
        match words[0], words[2:]:
            case "sub", []:
                self.listening[subject] = await self.client.subscribe(subject)
            case "request", [body]:
                payload = body.replace(_WRITTEN_ACK_WAIT, _SHORT_ACK_WAIT).encode()
                # In the old style, because a dispatch comes with its own subject, not with the inbox's.
                self.answer = await self.client.request(
                    subject, payload, timeout=_TIMEOUT_SECONDS, old_style=True
                )
                assert b'"error"' not in self.answer.data
            case "pub", [body]:
                await self.client.publish(subject, body.encode())
            case "pub", [body, "--reply", inbox]:
                await self.client.publish(subject, body.encode(), reply=inbox)
            case _:
                raise AssertionError(f"not a form that this test knows: {line}")

    async def expect(self, line: str) -> None:
        if line.startswith("{"):
            assert self.answer is not None
            answered = msgspec.json.decode(self.answer.data)
            assert msgspec.json.decode(line).items() <= answered.items()
            return
        shown = _RECEIVED.fullmatch(line)
        assert shown is not None, f"not a form that this test knows: {line}"
        number, subject, reply = shown.groups()
        message = await self._next("_INBOX.me")
        self.received += 1
        assert (int(number), subject) == (self.received, message.subject)
        assert _without_time(reply) == _without_time(message.reply)
        codec.decode_dispatch(message.data)
        self.replies[reply] = message.reply

    async def _next(self, inbox: str) -> Msg:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while True:
                message = await self.listening[inbox].next_msg(timeout=_TIMEOUT_SECONDS)
                if message.reply:
                    return message


def _without_time(reply: str) -> list[str]:
    tokens = reply.split(".")
    return [*tokens[:7], *tokens[8:]]


async def test_the_session_runs_as_it_is_written(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    try:
        terminal = _Terminal(client)
        for line in LINES:
            await (terminal.type(line) if line.startswith("$ ") else terminal.expect(line))

        assert terminal.received == 5
        notice = await terminal.listening["sw.ctl.default.cancel"].next_msg(timeout=_TIMEOUT_SECONDS)
        assert msgspec.json.decode(notice.data).keys() == {"task_id", "step_uuids"}
        jetstream = client.jetstream()
        assert (await jetstream.stream_info("DISP_default")).state.messages == 0, "each one is acknowledged"
        assert (await jetstream.stream_info("CMD")).state.messages == 5
    finally:
        await client.close()
