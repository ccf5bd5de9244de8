"""Schedules on real servers: firings, overlap, pauses, backfills, refusals."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stepweave import BadRequest, NotFound, SyncClient, ValidationFailed
from stepweave.testing import eventually
from stepweave_orchestrator.cli.schedule import app as cli
from stepweave_orchestrator.core.schedules import decide, orders
from stepweave_orchestrator.core.schedules.timing import Timing
from stepweave_orchestrator.runtime import owner

from .conftest import System, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "good"
FAR = {"cron": "0 0 1 1 *"}


def spec(name: str = "proof", **fields: Any) -> dict[str, Any]:
    """Settings of a schedule that fires far ahead, unless they say when."""
    task = {"namespace": NAMESPACE, "name": name, **fields.pop("task", {})}
    when = {} if {"cron", "every_seconds", "at"} & fields.keys() else FAR
    return {**when, "task": task, **fields}


async def schedule(system: System, name: str, **fields: Any) -> dict[str, Any]:
    """How a schedule stands."""
    answer: dict[str, Any] = await system.request("schedule.get", {"name": name, **fields})
    return answer


async def until(system: System, name: str, condition: Any) -> dict[str, Any]:
    """Wait until a schedule stands as wanted."""

    async def look() -> dict[str, Any] | None:
        found = await schedule(system, name)
        return found if condition(found) else None

    found: dict[str, Any] = await eventually(look, timeout_seconds=20, what=f"schedule {name}")
    return found


async def test_a_schedule_fires_by_itself_and_hears_of_the_end(system: System) -> None:
    at = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0).isoformat()
    context = {"day": "${schedule.date}", "text": "for ${schedule.fired_at} (${schedule.cause})"}
    answer = await system.request(
        "schedule.create", {"name": "once", "spec": spec(at=at, task={"context": context})}
    )
    assert answer["created"]
    assert [one["at"] for one in answer["schedule"]["next_firings"]] == [at[:19] + ".000Z"]
    done = await until(system, "once", lambda one: one["status"] == "finished")
    [run] = done["runs"]
    assert run["status"] == "complete"
    task = await system.task(run["task_uuid"])
    assert task["context"] == {"day": at[:10], "text": f"for {at[:19]}.000Z (regular)"}
    assert task["initiator"] == "schedule:default/once"
    assert task["source_system"] == "schedule"
    assert task["tags"] == ["schedule:default/once"]
    assert await system.types(done["schedule_id"]) == [
        "schedule.created",
        "schedule.fired",
        "schedule.task_ended",
    ]


async def test_creating_is_idempotent_and_says_what_is_wrong(system: System) -> None:
    request = {"name": "twice", "spec": spec(time_zone="Europe/Berlin")}
    first = await system.request("schedule.create", request)
    assert (first["created"], first["updated"]) == (True, False)
    again = await system.request("schedule.create", request)
    assert (again["created"], again["updated"]) == (False, False)
    other = {**request, "spec": spec(time_zone="Europe/Paris")}
    refused = await system.refusal("schedule.create", other)
    assert refused.code == "CONFLICT"
    changed = await system.request("schedule.create", {**other, "replace": True})
    assert (changed["created"], changed["updated"]) == (False, True)
    for bad, code, text in (
        (
            spec(cron="61 * * * *", time_zone="Mars"),
            "VALIDATION_FAILED",
            "spec.cron: '61 * * * *': the field",
        ),
        (
            spec(cron="61 * * * *", time_zone="Mars"),
            "VALIDATION_FAILED",
            "spec.time_zone: there is no zone 'Mars'",
        ),
        (spec("missing"), "NOT_FOUND", "there is no template good/missing"),
        (
            spec(task={"context": {"a": "${schedule.day}"}}),
            "VALIDATION_FAILED",
            "${schedule.day} stands for nothing; a firing knows",
        ),
        (spec(task={"context": []}), "VALIDATION_FAILED", "context: expected an object"),
        (spec(task={"priority": 101}), "VALIDATION_FAILED", "task.priority"),
        (spec(task={"tags": [""]}), "VALIDATION_FAILED", "task.tags"),
        (spec(task={"nmae": "x"}), "BAD_REQUEST", "$.spec.task"),
        (spec(crn="x"), "BAD_REQUEST", "crn"),
    ):
        refused = await system.refusal("schedule.create", {"name": "bad", "spec": bad})
        assert (refused.code, text in refused.message) == (code, True), refused
    for name in ("", " x", "a/b", "n" * 300, "\x00"):
        refused = await system.refusal("schedule.create", {"name": name, "spec": spec()})
        assert refused.code == "VALIDATION_FAILED"
    for operation in ("get", "pause", "resume", "trigger", "delete"):
        refused = await system.refusal(f"schedule.{operation}", {"name": "nobody"})
        assert refused.code == "NOT_FOUND"
        assert "there is no schedule default/nobody" in refused.message


async def test_a_backfill_and_a_trigger_start_each_task_once(system: System) -> None:
    await system.request("schedule.create", {"name": "days", "spec": spec(cron="0 6 * * *")})
    asked = {"name": "days", "from_at": "2026-01-01T00:00:00Z", "until_at": "2026-01-06T00:00:00Z"}
    dry = await system.request("schedule.backfill", {**asked, "dry_run": True})
    assert (dry["count"], dry["backfill_id"]) == (5, None)
    assert dry["first"][0]["at"] == "2026-01-01T06:00:00.000Z"
    # A dry run refuses what the real one would.
    for bad, why in (
        ({"until_at": "2199-01-01T00:00:00Z"}, "lies in the past"),
        ({"until_at": "2026-01-01T01:00:00Z"}, "no firing in this range"),
        ({"from_at": "1971-01-01T00:00:00Z"}, "10000 at most"),
    ):
        refused = await system.refusal("schedule.backfill", {**asked, **bad, "dry_run": True})
        assert (refused.code, why in refused.message) == ("CONFLICT", True), refused
    request = {**asked, "concurrency": 2, "backfill_id": "new year"}
    assert not (await system.request("schedule.backfill", request))["replayed"]
    assert (await system.request("schedule.backfill", request))["replayed"]
    for operation, bad in (
        ("trigger", {"name": "days", "trigger_id": ""}),
        ("backfill", {**asked, "backfill_id": ""}),
    ):
        refused = await system.refusal(f"schedule.{operation}", bad)
        assert (refused.code, f"{operation}_id: it is empty" in refused.message) == (
            "VALIDATION_FAILED",
            True,
        )
    trigger = {"name": "days", "trigger_id": "t1", "allow_overlap": True}
    run = (await system.request("schedule.trigger", trigger))["run"]
    again = await system.request("schedule.trigger", trigger)
    assert (again["replayed"], again["run"]["task_uuid"]) == (True, run["task_uuid"])
    done = await until(system, "days", lambda one: not one["running_count"] and not one["backfills"])
    assert sorted(one["at"][:10] for one in done["runs"] if one["cause"] == "backfill") == [
        f"2026-01-0{day}" for day in range(1, 6)
    ]
    assert {one["status"] for one in done["runs"]} == {"complete"}
    assert done["fired_count"] == 6
    # Once more: the tasks are there, and say again how they ended.
    await system.request("schedule.backfill", {**asked, "concurrency": 5})
    again = await until(system, "days", lambda one: one["fired_count"] == 11 and not one["running_count"])
    assert {one["task_uuid"] for one in again["runs"]} == {one["task_uuid"] for one in done["runs"]}
    refused = await system.refusal("schedule.backfill", {**asked, "from_at": "2026-02-01T00:00:00Z"})
    assert "until_at" in refused.message


async def test_a_firing_that_cannot_begin_is_recorded(system: System) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"day": {"type": "string"}},
        "required": ["day"],
    }
    text = template("strict_report", namespace=NAMESPACE, input_schema=schema)
    await system.register(text)
    settings = {
        "name": "strict",
        "spec": spec("strict_report", task={"context": {"day": "${schedule.date}"}}),
    }
    await system.request("schedule.create", settings)
    schema["required"].append("region")
    await system.register(text.replace('"1.0.0"', '"1.1.0"').replace('["day"]', '["day", "region"]'))
    refused = await system.refusal("schedule.create", {**settings, "name": "strict2"})
    assert "'region' is a required property" in refused.message or "region" in refused.message
    # Who asks for a firing is told what became of it.
    run = (await system.request("schedule.trigger", {"name": "strict"}))["run"]
    assert (run["status"], run["error_code"]) == ("failed", "SCHEDULED_CONTEXT_INVALID")
    found = await until(system, "strict", lambda one: one["failed_count"] == 1)
    [run] = found["runs"]
    assert (run["status"], run["error_code"]) == ("failed", "SCHEDULED_CONTEXT_INVALID")
    assert "region" in run["error_message"]
    assert found["running_count"] == 0


async def test_a_blocked_task_holds_its_schedule_no_longer(system: System) -> None:
    steps = [{"name": "only", "handler": "nobody_yet", "retry": {"max_attempts": 1}}]
    await system.register(template("doomed", steps, namespace="doomed"))
    await system.request(
        "schedule.create", {"name": "doomed", "spec": spec("doomed", task={"namespace": "doomed"})}
    )
    await system.request("schedule.trigger", {"name": "doomed"})
    taken = await system.take("doomed")
    assert "runs" in (await system.refusal("schedule.trigger", {"name": "doomed"})).message
    await taken.say(
        "failure", error_type="permanent_error", error_code="BOOM", error_message="no", retryable=False
    )
    found = await until(system, "doomed", lambda one: not one["running_count"])
    assert found["runs"][0]["status"] == "blocked_by_failures"
    assert found["runs"][0]["error_code"] == "BOOM"


async def test_the_running_task_is_cancelled_for_the_next(system: System) -> None:
    await system.register(template("slow", [{"name": "only", "handler": "nobody"}], namespace="slow"))
    slow = spec("slow", overlap="cancel_running", task={"namespace": "slow"})
    await system.request("schedule.create", {"name": "slow", "spec": slow})
    first = (await system.request("schedule.trigger", {"name": "slow"}))["run"]["task_uuid"]
    second = (await system.request("schedule.trigger", {"name": "slow"}))["run"]
    assert second["status"] == "waiting"
    found = await until(system, "slow", lambda one: one["waiting"] is None and one["running_count"] == 1)
    assert [one["status"] for one in found["runs"]] == ["running", "cancelled"]
    cancelled = await system.last(first)
    assert cancelled["cancelled_by"] == "schedule:default/slow"
    deleted = await system.request("schedule.delete", {"name": "slow"})
    assert deleted["running_count"] == 1
    await system.request("task.cancel", {"task_id": second["task_uuid"]})
    assert (await system.refusal("schedule.get", {"name": "slow"})).code == "NOT_FOUND"


async def test_pause_list_and_preview(system: System) -> None:
    await system.request("schedule.create", {"name": "calm", "namespace": "quiet", "spec": spec()})
    paused = await system.request("schedule.pause", {"name": "calm", "namespace": "quiet", "note": "why"})
    assert (paused["status"], paused["note"]) == ("paused", "why")

    # Somebody else's note is not lost without a word.
    words = ["pause", "quiet/calm", "--note", "another", "--nats-url", system.nats_url]
    typed = await asyncio.to_thread(CliRunner().invoke, cli, words)
    assert typed.exit_code == 0
    assert "it was paused before, by somebody: the new note is not kept" in typed.output

    async def listed() -> dict[str, Any] | None:
        page = await system.request("schedule.list", {"namespace": "quiet"})
        return next((one for one in page["schedules"] if one["status"] == "paused"), None)

    assert (await eventually(listed, what="the paused schedule in the list"))["next_at"] is None
    assert (await system.request("schedule.resume", {"name": "calm", "namespace": "quiet"}))[
        "status"
    ] == "active"
    await system.request("schedule.delete", {"name": "calm", "namespace": "quiet", "deleted_by": "eve"})
    # What happened to it can be read from its end, page by page, also when it is gone.
    asked = {"name": "calm", "namespace": "quiet", "limit": 2}
    page = (await system.request("schedule.events", asked))["events"]
    assert [(one["version"], one["type"]) for one in page] == [
        (3, "schedule.resumed"),
        (4, "schedule.deleted"),
    ]
    assert page[1]["data"]["deleted_by"] == "eve"
    page = (await system.request("schedule.events", {**asked, "before_version": 3}))["events"]
    assert [one["type"] for one in page] == ["schedule.created", "schedule.paused"]
    assert (await system.request("schedule.events", {**asked, "before_version": 1}))["events"] == []
    for bad, code in (
        ({"limit": 0}, "BAD_REQUEST"),
        ({"name": "nobody"}, "NOT_FOUND"),
        ({"before_version": 0}, "BAD_REQUEST"),
    ):
        assert (await system.refusal("schedule.events", {**asked, **bad})).code == code
    ahead = await system.request(
        "schedule.preview",
        {
            "timing": {"cron": "30 2 * * *", "time_zone": "Europe/Berlin"},
            "after": "2026-03-28T12:00:00Z",
            "count": 1,
        },
    )
    assert ahead["firings"] == [
        {"at": "2026-03-29T01:00:00.000Z", "local": "2026-03-29T03:00:00+02:00", "due_at": None}
    ]


async def test_the_blocking_client(system: System) -> None:
    """Every method for schedules, on the way of a schedule from its creation to its end."""

    def drive() -> None:
        with SyncClient(system.nats_url, timeout_seconds=20) as client:
            created = client.create_schedule("sync", spec(), created_by="ada")
            assert created.created
            assert client.get_schedule("sync") == created.schedule
            assert client.pause_schedule("sync", note="why").status == "paused"
            run = client.trigger_schedule("sync", trigger_id="t").run
            assert run is not None
            assert client.wait_for_task(run.task_uuid).status == "complete"
            assert client.resume_schedule("sync").status == "active"
            past = datetime(2025, 1, 1, tzinfo=UTC), "2026-01-02T00:00:00Z"
            assert client.backfill_schedule("sync", *past, dry_run=True).count == 2
            assert client.backfill_schedule("sync", *past, concurrency=2).backfill_id
            ahead = client.preview_schedule({"every_seconds": 60}, count=2, after=past[0])
            assert [one.at for one in ahead] == ["2025-01-01T00:01:00.000Z", "2025-01-01T00:02:00.000Z"]
            with pytest.raises(ValidationFailed, match="never fire"):
                client.create_schedule("late", spec(at="2025-01-01T00:00:00Z"))
            with pytest.raises(BadRequest, match="nmae"):
                client.create_schedule("late", spec(task={"nmae": "x"}))
            assert client.delete_schedule("sync", reason="done").schedule_id == created.schedule.schedule_id
            with pytest.raises(NotFound):
                client.get_schedule("sync")
            assert [event.type for event in client.get_schedule_events("sync", before_version=3)] == [
                "schedule.created",
                "schedule.paused",
            ]
            client.list_schedules(status="paused")

    await asyncio.to_thread(drive)


async def test_the_command_line(system: System, tmp_path: Path) -> None:
    file = tmp_path / "nightly_schedule.yaml"
    file.write_text(
        "name: nightly\nevery: 1d\nanchor: 2026-01-01T03:00:00Z\njitter: 90\ncatch_up: 12h\n"
        "task: {template: good/proof, context: {day: '${schedule.date}'}, tags: [nightly_tag]}\n"
    )

    async def typed(*words: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stepweave_orchestrator.cli",
            "schedule",
            *words,
            env={**os.environ, "NATS_URL": system.nats_url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, progress = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, said.decode(), progress.decode()

    code, said, progress = await typed("create", "--file", str(file))
    assert (code, "schedule default/nightly is created" in progress) == (0, True), progress
    assert said.count("03:00:00+00:00") == 10
    assert all(text in said for text in ("anchor", "good/proof", "nightly_tag", "by cli:")), said
    code, said, progress = await typed(
        "backfill",
        "nightly",
        "--from",
        "2026-01-01T00:00:00Z",
        "--until",
        "2026-01-03T00:00:00Z",
        "--dry-run",
    )
    assert (code, progress) == (0, "2 firings; without --dry-run those start that have not fired yet\n")
    answers = await asyncio.gather(
        typed("show", "default/nightly", "-o", "json"),
        typed("show", "nobody"),
        typed("create", "nightly", "--template", "good/proof", "--cron", "@daily"),
        typed("preview", "--cron", "99 * * * *"),
        typed("list", "--status", "paused"),
        typed("history", "nightly"),
    )
    shown = json.loads(answers[0][1])["spec"]
    assert (shown["every_seconds"], shown["jitter_seconds"], shown["catch_up_seconds"]) == (
        86_400,
        90,
        43_200,
    )
    assert [code for code, _, _ in answers] == [0, 3, 4, 4, 0, 0]
    assert "schedule.created  default/nightly by cli:" in answers[5][1]
    assert "--replace gives it these" in answers[2][2]
    assert answers[3][2].startswith("stepweave: --cron: '99 * * * *': the field minute takes 0-59")


async def test_a_second_orchestrator_takes_over_and_makes_up_for_what_was_missed(system: System) -> None:
    """Nobody is there while firings come due: the next owner fires each once."""
    settings = spec(every_seconds=1, overlap="allow", task={"context": {"at": "${schedule.fired_at}"}})
    await system.request("schedule.create", {"name": "steady", "spec": settings})
    await until(system, "steady", lambda one: one["fired_count"] >= 1)
    await system.stop_orchestrator(system.orchestrator)
    await system.start_orchestrator()
    await until(system, "steady", lambda one: one["fired_count"] >= 3)
    await system.request("schedule.pause", {"name": "steady"})
    done = await until(system, "steady", lambda one: not one["running_count"])
    events = await system.history(done["schedule_id"])
    moments = [json.loads(event.data)["nominal_at_ms"] for event in events if event.type == "schedule.fired"]
    assert moments == list(range(moments[0], moments[-1] + 1, 1_000))
    ended = sum(event.type == "schedule.task_ended" for event in events)
    assert ended == len(moments)


async def test_a_schedule_that_cannot_be_decided_holds_nothing_else_up(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours, in deciding and in ordering: its wake-up is put off, and comes again."""
    tries: list[str] = []

    def broken(spec: Any) -> Timing:
        tries.append(spec.description)
        raise RuntimeError("no data of that zone")

    monkeypatch.setattr(owner, "FAULTY_WAKE_MS", 600)
    for module, name in ((decide, "of deciding"), (orders, "of ordering")):
        tries.clear()
        settings = spec(every_seconds=1, overlap="allow", description=name)
        await system.request("schedule.create", {"name": name, "spec": settings})
        with monkeypatch.context() as patch:
            patch.setattr(module, "Timing", broken)

            async def tried() -> bool:
                return bool(tries)

            await eventually(tried, what="a wake-up that fails")
            begun = time.monotonic()
            for _ in range(20):
                await schedule(system, name)
            assert len(tries) <= 2 + (time.monotonic() - begun) / 0.6
        await until(system, name, lambda one: one["fired_count"])
        await system.request("schedule.delete", {"name": name})
