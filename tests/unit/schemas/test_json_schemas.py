from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from stepweave_schemas import __main__ as command
from stepweave_schemas import api, codec, json_schemas, result
from stepweave_schemas.dispatch import Dispatch
from stepweave_schemas.json_schemas import DIALECT, REPLIES, documents, event_schema

ROOT = Path(__file__).parents[3]


Samples = dict[str, list[Any]]

DOCUMENTS = documents()


def _validator(name: str) -> Any:
    return jsonschema_rs.Draft202012Validator(DOCUMENTS[name], validate_formats=True)


def test_the_committed_files_are_what_the_code_says() -> None:
    assert command.differences(ROOT) == []


def test_the_check_names_what_differs_and_writing_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "schemas/stepweave_schemas").mkdir(parents=True)
    root = ["--root", str(tmp_path)]
    assert command.main([*root, "--check"]) == 1
    assert "schemas/json/dispatch.schema.json: missing" in capsys.readouterr().err

    assert command.main(root) == 0
    assert command.main([*root, "--check"]) == 0

    (tmp_path / "schemas/json/dispatch.schema.json").write_text("{}")
    (tmp_path / "schemas/json/event.task.gone.schema.json").write_text("{}")
    assert command.main([*root, "--check"]) == 1
    told = capsys.readouterr().err
    assert "schemas/json/dispatch.schema.json: differs from the code" in told
    assert "schemas/json/event.task.gone.schema.json: nothing generates it" in told

    assert command.main(root) == 0
    assert command.differences(tmp_path) == []


def test_the_command_refuses_a_folder_that_is_not_the_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--root", str(tmp_path)]) == 2
    assert "is not the repository" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_document_has_samples_and_every_operation_an_answer(samples: Samples) -> None:
    assert samples.keys() == DOCUMENTS.keys()
    assert REPLIES.keys() == api.OPERATIONS.keys()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_sound_and_stands_on_its_own(name: str) -> None:
    document = DOCUMENTS[name]
    assert document["$schema"] == DIALECT
    assert document["$id"] == f"urn:stepweave:schema:{name}:1"
    jsonschema_rs.meta.validate(document)
    references = [value for key, value in _walk(document) if key == "$ref"]
    assert all(reference.startswith("#/$defs/") for reference in references)
    assert {reference.removeprefix("#/$defs/") for reference in references} == set(document.get("$defs", ()))


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_real_messages_validate(name: str, samples: Samples) -> None:
    validator = _validator(name)
    for sample in samples[name]:
        validator.validate(sample)


def _object_of(document: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    """The object schema that describes the sample: the document, or the member of its union."""
    if "anyOf" not in document:
        return document
    kinds = {
        inner["properties"]["kind"]["const"]: inner
        for inner in document["$defs"].values()
        if "kind" in inner["properties"]
    }
    return dict(kinds[sample["kind"]])


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "template"])
def test_messages_that_lack_a_field_or_have_a_wrong_one_do_not_validate(name: str, samples: Samples) -> None:
    validator = _validator(name)
    for sample in samples[name]:
        if isinstance(sample, list):
            assert not validator.is_valid([])
            assert not validator.is_valid(sample[0])
            assert not validator.is_valid([*sample, {**sample[0], "task_id": "nobody"}])
            continue
        assert not validator.is_valid([sample])
        schema = _object_of(DOCUMENTS[name], sample)
        for field in schema.get("required", ()):
            lacking = {key: value for key, value in sample.items() if key != field}
            assert not validator.is_valid(lacking), f"{field} is required"
        for field, described in schema["properties"].items():
            if described.keys() <= {"description", "default"}:
                continue  # any JSON value is right
            # An array of any JSON values is the one type that this would be right for.
            wrong = {**sample, field: "no array" if described.get("items") == {} else [[]]}
            assert not validator.is_valid(wrong), f"{field} has a type"
        closed = name.endswith(".request")
        assert validator.is_valid({**sample, "added_later": 1}) is not closed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dispatch", {"kind": "success"}),
        ("dispatch", {"attempt": 0}),
        ("dispatch", {"priority": 101}),
        ("dispatch", {"context": []}),
        ("dispatch", {"checkpoint": {"cursor": 1}}),
        ("dispatch", {"result_subject": "sw.cmd.3.task"}),
        ("dispatch", {"task_id": "0198C0DE-0000-7000-8000-000000000001"}),
        ("event.task.completed", {"type": "task.failed"}),
        ("event.task.completed", {"duration_ms": -1}),
        ("envelope", {"recorded_at": "yesterday"}),
        ("envelope", {"position": 0}),
        ("envelope", {"data": "text"}),
        ("api.task.list.request", {"per_page": 201}),
        ("api.task.events.request", {"limit": 0}),
        ("api.error", {"error": {"code": "OOPS", "message": ""}}),
        ("api.error", {"error": {"code": "NOT_FOUND"}}),
    ],
)
def test_bounds_hold(name: str, change: dict[str, Any], samples: Samples) -> None:
    validator = _validator(name)
    sample = samples[name][0]
    assert validator.is_valid(sample)
    assert not validator.is_valid({**sample, **change})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("failure", {"error_type": "bad_luck"}),
        ("failure", {"error_message": "x" * (result.ERROR_MESSAGE_CHARS_MAX + 1)}),
        ("failure", {"retry_after_ms": -1}),
        ("lost", {"deliveries": 1}),
        ("decision", {"create_steps": "approve"}),
        ("decision", {"create_steps": [1]}),
        ("batches", {"cursors": 3}),
        ("batches", {"worker_template": None}),
        ("checkpoint", {"items_processed": 1.5}),
        ("failure", {"compensation_steps": "reserve"}),
        ("success", {"metadata": []}),
        ("started", {"started_at_ms": None}),
    ],
)
def test_bounds_of_outcomes_hold(kind: str, change: dict[str, Any], samples: Samples) -> None:
    sample = next(sample for sample in samples["outcome"] if sample["kind"] == kind)
    assert _validator("outcome").is_valid(sample)
    assert _validator("outcomes").is_valid([sample] * result.RESULTS_PER_MESSAGE_MAX)
    assert not _validator("outcome").is_valid({**sample, **change})
    assert not _validator("outcomes").is_valid([sample, {**sample, **change}])
    assert not _validator("outcomes").is_valid([sample] * (result.RESULTS_PER_MESSAGE_MAX + 1))


def test_defaults_in_the_schema_are_those_of_the_struct(samples: Samples) -> None:
    """What a reader in another language fills in is what the Python side means by an absent field."""
    least = samples["dispatch"][0]
    defaults = {
        name: field["default"]
        for name, field in DOCUMENTS["dispatch"]["properties"].items()
        if "default" in field
    }
    filled = codec.decode_dispatch(msgspec.json.encode({**defaults, **least}))
    assert filled == codec.decode_dispatch(msgspec.json.encode(least))
    assert defaults.keys() | least.keys() == {"kind", *Dispatch.__struct_encode_fields__}


def test_the_comments_of_fields_arrive_as_descriptions() -> None:
    fields = DOCUMENTS["outcomes"]["$defs"]["Failure"]["properties"]
    assert fields["retry_after_ms"]["description"].startswith("The handler's wish")
    assert "description" not in fields["error_message"]
    assert event_schema("step.failed")["properties"]["failure_reason"]["description"]


def test_a_type_that_has_no_schema_is_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"teach `json_schemas\._schema`"):
        json_schemas._schema(msgspec.inspect.type_info(bytes), {})
