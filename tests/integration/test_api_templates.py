"""Templates over the API: what is refused stores nothing, what is registered never changes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from stepweave_schemas.identity import template_stream_id

from .conftest import Refused, System, template

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEP = {"name": "a", "handler": "noop"}


def _codes(refused: Refused) -> list[str]:
    return [problem["code"] for problem in refused.details["problems"] if problem["severity"] == "error"]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("steps: [", ["BAD_YAML"]),
        ("", ["BAD_YAML"]),
        ("name: 'nul \x00'", ["BAD_YAML"]),
        (template("t", [STEP], surprise=1), ["UNKNOWN_KEY"]),
        (template("t", [{**STEP, "retry": {"max_atempts": 3}}]), ["UNKNOWN_KEY"]),
        (
            template("t", [{**STEP, "dependencies": ["b"]}, {**STEP, "name": "b", "dependencies": ["a"]}]),
            ["CYCLE_DETECTED"],
        ),
        (template("t", [{**STEP, "dependencies": ["a"]}]), ["SELF_DEPENDENCY"]),
        (template("t", [{**STEP, "dependencies": ["gone"]}]), ["MISSING_DEP_REF"]),
        (template("t", [STEP, STEP]), ["DUPLICATE_STEP_NAME"]),
        (template("t", [{"name": "a", "handler": ""}]), ["EMPTY_CALLABLE"]),
        (template("t", [STEP], input_schema={"type": "objekt"}), ["SCHEMA_INVALID"]),
        (template("t", [STEP], input_schema={"$ref": "file:///etc/hostname"}), ["SCHEMA_INVALID"]),
        (template("t", []), ["BAD_VALUE"]),
        (template("t", [STEP], version="first"), ["BAD_VALUE"]),
        (template("with space", [STEP]), ["BAD_VALUE"]),
        (template("t", [STEP], namespace="_system"), ["BAD_VALUE"]),
    ],
)
async def test_a_broken_template_is_refused_with_every_problem(
    system: System, text: str, codes: list[str]
) -> None:
    async with system.unharmed():
        refused = await system.refusal("template.register", {"content": text, "source": "here.yaml"})
        assert refused.code == "VALIDATION_FAILED"
        assert _codes(refused) == codes
        for problem in refused.details["problems"]:
            assert problem["source"] == "here.yaml"
            assert problem["message"]
        told = await system.request("template.validate", {"content": text})
        assert told["valid"] is False
        assert [problem["code"] for problem in told["problems"] if problem["severity"] == "error"] == codes


async def test_every_problem_at_once_each_with_its_line(system: System) -> None:
    text = "\n".join(
        [
            "name: many",
            "steps:",
            "  - {name: a, handler: noop, dependencies: [gone]}",
            "  - {name: a, handler: noop, tries: 3}",
            "input_schema: {type: nothing}",
        ]
    )
    refused = await system.refusal("template.register", {"content": text})
    problems = refused.details["problems"]
    lines = {problem["code"]: problem["line"] for problem in problems if problem["severity"] == "error"}
    assert lines == {
        "MISSING_DEP_REF": 3,
        "DUPLICATE_STEP_NAME": 4,
        "UNKNOWN_KEY": 4,
        "SCHEMA_INVALID": 5,
    }


@pytest.mark.parametrize(
    ("fields", "step", "path"),
    [
        ({"lifecycle": {"max_duration_seconds": 5}}, {}, "lifecycle"),
    ],
)
async def test_what_this_version_does_not_run_is_refused_not_ignored(
    system: System, fields: dict[str, Any], step: dict[str, Any], path: str
) -> None:
    async with system.unharmed():
        after = {"name": "b", "handler": "noop", "dependencies": ["a"]}
        text = template("later", [{**STEP, **step}, after], **fields)
        refused = await system.refusal("template.register", {"content": text})
        assert refused.code == "VALIDATION_FAILED"
        assert path in [
            problem["path"] for problem in refused.details["problems"] if problem["code"] == "NOT_SUPPORTED"
        ], refused.details


async def test_a_registered_version_never_changes(system: System) -> None:
    first = await system.register(template("fixed", description="one"))
    assert first["created"] is True
    before = await system.heads()
    again = await system.register(template("fixed", description="one"))
    assert again["created"] is False
    assert again["hash"] == first["hash"]
    # Another text of the same content: order of keys, another dialect.
    other_words = await system.register(
        "task_handler: x\ndescription: one\nversion: 1.0.0\nname: fixed\nnamespace_name: default\n"
        "step_templates: [{handler: {callable: noop}, name: only}]\n"
    )
    assert (other_words["created"], other_words["hash"]) == (False, first["hash"])
    assert [warning["code"] for warning in other_words["warnings"]] == ["IGNORED_KEY"]
    refused = await system.refusal("template.register", {"content": template("fixed", description="two")})
    assert refused.code == "CONFLICT"
    assert "default/fixed:1.0.0" in refused.message
    assert await system.heads() == before
    assert (await system.request("template.get", {"namespace": "default", "name": "fixed"}))["hash"] == first[
        "hash"
    ]


async def test_versions_coexist_and_the_highest_release_is_taken(system: System) -> None:
    for version in ("1.0.0", "1.10.0", "1.9.0", "2.0.0-rc.1"):
        await system.register(template("many", version=version, description=version))
    told = await system.request("template.get", {"namespace": "default", "name": "many"})
    assert told["version"] == "1.10.0"
    assert sorted(told["versions"]) == ["1.0.0", "1.10.0", "1.9.0", "2.0.0-rc.1"]
    task = await system.task(await system.create("many"))
    assert task["version"] == "1.10.0"
    task = await system.task(await system.create("many", version="2.0.0-rc.1"))
    assert task["version"] == "2.0.0-rc.1"
    # A task that runs stays with its version.
    await system.register(template("many", version="3.0.0", namespace="default"))
    assert (await system.task(task["task_uuid"]))["version"] == "2.0.0-rc.1"
    assert (await system.task(await system.create("many")))["version"] == "3.0.0"


async def test_of_prereleases_only_the_highest_is_taken(system: System) -> None:
    for version in ("1.0.0-alpha.2", "1.0.0-alpha.10"):
        await system.register(template("early", version=version))
    task = await system.task(await system.create("early"))
    assert task["version"] == "1.0.0-alpha.10"


@pytest.mark.parametrize("operation", ["template.get", "task.create"])
async def test_unknown_templates_and_versions(system: System, operation: str) -> None:
    await system.register(template("known"))
    async with system.unharmed():
        refused = await system.refusal(operation, {"namespace": "default", "name": "nowhere"})
        assert refused.code == "NOT_FOUND"
        assert "default/nowhere" in refused.message
        refused = await system.refusal(
            operation, {"namespace": "default", "name": "known", "version": "9.9.9"}
        )
        assert refused.code == "NOT_FOUND"
        assert "9.9.9" in refused.message and "1.0.0" in refused.message
        for odd in ("", "\x00", "a.b *>", "ä" * 400):
            refused = await system.refusal(operation, {"namespace": odd, "name": odd})
            assert refused.code in ("NOT_FOUND", "VALIDATION_FAILED")


async def test_a_template_that_no_message_could_carry_is_refused(system: System) -> None:
    async with system.unharmed():
        wide = [{"name": f"step-{number:06}", "handler": "noop"} for number in range(14_000)]
        text = template("wide", wide)
        assert len(text) < system.connection.max_payload_bytes
        refused = await system.refusal("template.register", {"content": text})
        assert refused.code == "VALIDATION_FAILED"
        assert "bytes" in refused.message
        heavy = {"callable": "noop", "initialization": {"blob": "x" * 600_000}}
        text = template("heavy", [{"name": "a", "handler": heavy}])
        refused = await system.refusal("template.register", {"content": text})
        assert refused.code == "VALIDATION_FAILED"
        assert "initialization" in refused.message


async def test_a_yaml_bomb_is_refused(system: System) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    async with system.unharmed():
        refused = await system.refusal("template.register", {"content": "\n".join(bomb)})
        assert refused.code == "VALIDATION_FAILED"
        refused = await system.refusal("template.register", {"content": "[" * 50_000})
        assert refused.code == "VALIDATION_FAILED"


async def test_thousands_of_problems_still_get_an_answer(system: System) -> None:
    async with system.unharmed():
        steps = [
            {"name": "n" * 250 + f"{number:05}", "handler": "noop", "no_such_key": number}
            for number in range(2_500)
        ]
        text = template("wrong", steps)
        assert len(text) < system.connection.max_payload_bytes
        for operation in ("template.register", "template.validate"):
            request = {"content": text, "source": "a/" * 5_000 + "wrong.yaml"}
            if operation == "template.register":
                problems = (await system.refusal(operation, request)).details["problems"]
            else:
                problems = (await system.request(operation, request))["problems"]
            assert problems[0]["source"].startswith("…") and problems[0]["source"].endswith("/wrong.yaml")
            assert problems[0]["code"] == "UNKNOWN_KEY"
            assert len(problems) > 100


async def test_who_registered_is_bounded_text(system: System) -> None:
    async with system.unharmed():
        for who in ("\x00", "x" * 5_000):
            refused = await system.refusal(
                "template.register", {"content": template("who"), "registered_by": who}
            )
            assert refused.code == "VALIDATION_FAILED"
            assert "registered_by" in refused.message


async def test_validation_stores_nothing(system: System) -> None:
    async with system.unharmed():
        told = await system.request("template.validate", {"content": template("never")})
        assert told == {"valid": True, "problems": []}
        assert (
            await system.refusal("template.get", {"namespace": "default", "name": "never"})
        ).code == "NOT_FOUND"


async def test_the_same_version_registered_by_many_at_once(system: System) -> None:
    same = [system.register(template("race")) for _ in range(20)]
    answers = await asyncio.gather(*same)
    assert [answer["created"] for answer in answers].count(True) == 1
    different = [
        system.request("template.register", {"content": template("clash", description=str(number))})
        for number in range(10)
    ]
    endings = await asyncio.gather(*different, return_exceptions=True)
    refused = [ending for ending in endings if isinstance(ending, Refused)]
    assert len(refused) == 9
    assert {one.code for one in refused} == {"CONFLICT"}


async def test_templates_of_a_namespace_are_listed(system: System) -> None:
    for version in ("1.0.0", "1.1.0"):
        await system.register(
            template("listed", version=version, namespace="shelf", description="on the shelf")
        )

    async def listed() -> list[dict[str, Any]]:
        told = await system.request("template.list", {"namespace": "shelf"})
        rows: list[dict[str, Any]] = told["templates"]
        return rows

    async with asyncio.timeout(5):
        while len(rows := await listed()) < 2:
            await asyncio.sleep(0.02)
    assert [(row["name"], row["version"], row["total_steps"]) for row in rows] == [
        ("listed", "1.0.0", 1),
        ("listed", "1.1.0", 1),
    ]
    assert {row["description"] for row in rows} == {"on the shelf"}
    assert (await system.request("template.list", {"namespace": "empty"}))["templates"] == []
    every = (await system.request("template.list"))["templates"]
    assert {"good/proof", "shelf/listed"} <= {f"{row['namespace']}/{row['name']}" for row in every}


async def test_registration_goes_into_one_stream_per_template(system: System) -> None:
    told = await system.register(template("ledger", description="first"))
    await system.register(template("ledger", version="1.1.0"))
    history = await system.history(template_stream_id("default", "ledger"))
    assert [event.type for event in history] == ["template.registered"] * 2
    payload = json.loads(history[0].data)
    assert (payload["version"], payload["hash"]) == ("1.0.0", told["hash"])
    assert payload["content"] == told["content"]
