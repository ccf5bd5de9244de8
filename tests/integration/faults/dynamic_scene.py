"""The workflows of the crash tests of dynamic workflows, and a scene in which one place of them is crashed."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from stepweave.messaging import Connection
from stepweave_eventstore.postgres import PostgresEventStore
from stepweave_eventstore.store import EventRecord
from stepweave_orchestrator.core.children import child_task_id
from stepweave_schemas import subjects
from stepweave_schemas.identity import shard_of, step_uuid

from .conftest import SHARDS, Forked, Process, Stack, until

BATCHES = 200
#: Batches from this cursor on are held.
HELD_FROM = 100
PARALLELISM = 20
#: The signal whose time runs out is waited for so long.
PATIENCE_SECONDS = 0.5

_RETRY = {"max_attempts": 5, "backoff": "none"}


def _step(name: str, *dependencies: str, handler: str = "work", **fields: Any) -> dict[str, Any]:
    return {"name": name, "handler": handler, "dependencies": list(dependencies), "retry": _RETRY, **fields}


def _undoable(name: str, *dependencies: str) -> dict[str, Any]:
    return _step(name, *dependencies, compensation={"handler": "undo", "retry": _RETRY})


def _waiting(name: str, *dependencies: str, **wait: Any) -> dict[str, Any]:
    return {"name": name, "dependencies": list(dependencies), "wait_for_signal": {"name": name, **wait}}


TEMPLATES: dict[str, list[dict[str, Any]]] = {
    "choosing": [
        _step("choose", type="decision", handler="choose"),
        *(_step(name, "choose") for name in ("left", "right", "neither")),
        _step("join", "left", "right", "neither", type="deferred_convergence"),
    ],
    "cutting": [
        _step(
            "cut",
            type="batchable",
            handler="cut",
            batch_config={"worker_template": "part", "parallelism": PARALLELISM},
        ),
        _step("part", "cut", type="batch_worker", handler="part"),
        _step("collect", "part", type="deferred_convergence", handler="collect"),
    ],
    "crawling": [_step("crawl", handler="crawl"), _step("last", "crawl")],
    "undoing": [
        _undoable("a"),
        _undoable("b", "a"),
        _undoable("c", "a"),
        _step("d", "b", "c", handler="break_down"),
    ],
    "listening": [
        _step("gate"),
        _waiting("early", "gate"),
        _waiting("word", "early"),
        _waiting("patience", "word", timeout_seconds=PATIENCE_SECONDS, default="nobody came"),
        _step("last", "patience"),
    ],
    "parent": [
        _step("before"),
        {
            "name": "start",
            "dependencies": ["before"],
            "child_task": {"name": "child", "context": {"hold": "${context.child_hold}"}},
        },
        _step("after", "start"),
    ],
    "child": [_step("work")],
}


def template(name: str) -> str:
    """The text of one of the templates."""
    return json.dumps({"namespace": "faults", "name": name, "version": "1.0.0", "steps": TEMPLATES[name]})


def child_of(task_id: str) -> str:
    """The id of the child that the first try of a parent's step starts."""
    return child_task_id(step_uuid(task_id, "start"), 1)


def shard(task_id: str) -> int:
    """The shard of a task."""
    return shard_of(task_id, SHARDS)


class Act(NamedTuple):
    """What a handler noted."""

    task_id: str
    step: str
    attempt: int
    what: str


class Scene:
    """Tasks that are held somewhere, and the orchestrator that is to die there."""

    def __init__(self, stack: Stack, store: PostgresEventStore) -> None:
        self.stack = stack
        self.store = store
        self.orchestrator: Forked
        self.tasks: list[str] = []
        #: Settings of all orchestrators from now on.
        self.settings: dict[str, str] = {}
        self._orchestrators = 0

    async def set_up(self) -> None:
        """An orchestrator and a worker, and the templates."""
        await self.new_orchestrator()
        for name in TEMPLATES:
            await self.stack.client.register_template(template(name))

    async def worker(self) -> Process:
        """A worker that says nothing between the beginning and the end of a step: what is committed is as planned."""
        return await self.stack.forked("worker_process.py", TEST_ANNOUNCE_AFTER_MS="60000")

    async def new_orchestrator(self) -> None:
        """The next one; where the others are dead and buried it owns everything once this returns."""
        self._orchestrators += 1
        self.orchestrator = await self.stack.forked(
            "orchestrator_process.py",
            STEPWEAVE_OWNER=f"owner-{self._orchestrators}",
            STEPWEAVE_LEASE_MS="10000",
            **self.settings,
        )

    async def bury(self, number: int | None = None) -> None:
        """End the leases of one that is dead (the last one); how others wait for them is `test_crashes`' concern."""
        owner = f"owner-{number or self._orchestrators}"
        held = {row.shard: row.epoch for row in await self.store.shards() if row.owner == owner}
        await self.store.release_shards(owner, held, {})
        await self.store.retire(owner)
        await self._nudge()

    async def _nudge(self) -> None:
        """Let the orchestrators look at their leases at once."""
        async with await Connection.open(self.stack.servers.nats_url, name="nudge") as connection:
            connection.send(subjects.SHARDS_FREE)
            await connection.flush()

    async def owners(self) -> dict[int, str]:
        """Who owns each shard."""
        return {row.shard: row.owner for row in await self.store.shards()}

    async def shared(self) -> None:
        """Wait until two orchestrators own shards."""

        async def both() -> bool:
            return len(set((await self.owners()).values()) - {""}) == 2

        await self._nudge()
        await until(both)

    async def published(self, owners: dict[int, str], owner: str) -> None:
        """Wait until everything in the shards of one is out: JetStream has acknowledged its orders too."""

        async def out() -> bool:
            # It is written with the renewal of the lease.
            await self._nudge()
            rows = [row for row in await self.store.shards() if owners[row.shard] == owner]
            return all(row.published_position == row.head_position for row in rows)

        await until(out)

    async def renewed(self, number: int, times: int) -> None:
        """Wait until the lease of a shard was renewed so many times."""

        async def ends_at() -> float:
            return time.monotonic() + (await self.store.shards())[number].lease_remaining_ms / 1000

        for _ in range(times):
            before = await ends_at()

            async def later(before: float = before) -> bool:
                await self._nudge()
                return await ends_at() > before + 0.1

            await until(later)

    async def begin(self, name: str, *hold: str, task_id: str | None = None, **context: Any) -> str:
        """Start a task of which these steps are to be held."""
        context = {"hold": hold, "child_hold": [], **context}
        task = await self.stack.client.create_task(
            name, namespace="faults", context=context, task_id=task_id, timeout_seconds=90
        )
        self.tasks.append(task.task_uuid)
        return task.task_uuid

    def acts(self) -> Iterator[Act]:
        """Everything that handlers noted, in order."""
        path = self.stack.folder / "acts.txt"
        for line in path.read_text().splitlines() if path.exists() else []:
            task_id, step, attempt, what = line.split()
            yield Act(task_id, step, int(attempt), what)

    def effects(self, task_id: str, kind: str = "") -> list[str]:
        """What handlers of a task noted besides their tries, in order."""
        return [act.what for act in self.acts() if act.task_id == task_id and act.what.startswith(f"{kind}:")]

    async def held(self, task_id: str, *steps: str, attempt: int = 1) -> None:
        """Wait until handlers have begun this try of all these steps."""
        wanted = {Act(task_id, step, attempt, "try") for step in steps}

        async def begun() -> bool:
            return wanted <= set(self.acts())

        await until(begun)

    async def held_in_batches(self, task_id: str) -> None:
        """Wait until a task stands in the middle of its batches: half is done, the next ones are held."""

        async def begun() -> bool:
            tries = Counter(act.what.partition(":")[0] for act in self.acts() if act.task_id == task_id)
            done = (await self.types(task_id))["step.completed"]
            # The analyser has a try and a result as well.
            return tries["try"] == 1 + HELD_FROM + PARALLELISM and done == 1 + HELD_FROM

        await until(begun)

    def let_go(self, task_id: str, step: str) -> None:
        """Let a step go on that is held, and all its later tries."""
        (self.stack.folder / f"go {task_id} {step}").touch()

    async def history(self, task_id: str) -> list[EventRecord]:
        """A task's events."""
        return await self.store.read_stream(task_id)

    async def types(self, task_id: str) -> Counter[str]:
        """How many events of each type a task has."""
        return Counter(event.type for event in await self.history(task_id))

    async def waits_for(self, task_id: str, event: str, count: int = 1) -> None:
        """Wait until a task has so many events of a type."""

        async def has() -> bool:
            return (await self.types(task_id))[event] >= count

        await until(has)

    async def crash(
        self, point: str, release: Callable[[], object], task_id: str, event: str, *, count: int = 1
    ) -> None:
        """Let the orchestrator die at a point in the commit of an event of a task, and start another.

        `release` sets off what leads there; so many commits later it dies.
        """
        before = (await self.types(task_id))[event]
        await self.orchestrator.arm(self.stack.folder / "crash", point, count)
        release()
        assert await self.orchestrator.dead() == -signal.SIGKILL
        happened = (await self.types(task_id))[event] > before
        assert happened == (point != "before_append"), "the crash fell into another commit"
        await self.bury()
        await self.new_orchestrator()

    async def ended(self, task_id: str, event: str = "task.completed") -> list[dict[str, Any]]:
        """Wait until a task has ended so; gives back its events' data."""
        await self.waits_for(task_id, event)
        return [msgspec.json.decode(record.data) for record in await self.history(task_id)]

    async def check(self) -> None:
        """What `Stack.check` says, of all tasks and their children: and each try has one child at most."""
        created = [
            (record.task_id, msgspec.json.decode(record.data))
            for shard in range(SHARDS)
            async for record in self.store.walk(shard)
            if record.type == "task.created"
        ]
        children = [(one, data["parent"]) for one, data in created if "parent" in data]
        tries = Counter((parent["step_uuid"], parent["attempt"]) for _, parent in children)
        assert set(tries.values()) <= {1}, tries
        assert {one for one, _ in created} == {*self.tasks, *(one for one, _ in children)}
        await self.stack.check([one for one, _ in created])

    def each_try_once(self) -> None:
        """No handler was called twice for the same try."""
        # A try of a step with checkpoints has several parts; its handler notes the one in the middle.
        twice = {act: count for act, count in Counter(self.acts()).items() if count > 1}
        assert not twice, twice


def results(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of a task's steps, by name."""
    return {event["step_name"]: event["result"] for event in events if event["type"] == "step.completed"}


def attempts(events: list[dict[str, Any]]) -> dict[str, int]:
    """In which try each step of a task ended well, by name."""
    ends = ("step.completed", "compensation.completed")
    return {event["step_name"]: event["attempt"] for event in events if event["type"] in ends}


async def forget(sending: Any) -> None:
    """Give up a request whose orchestrator died."""
    sending.cancel()
    with suppress(BaseException):
        await sending
