"""The schema for editors says what the loader says, and the file in the repository is the current one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from stepweave_schemas.template import check_template, editor_schema, load_template, template_json_schema
from stepweave_schemas.template.__main__ import main
from stepweave_schemas.template.dialects import Shape

ROOT = Path(__file__).parents[3]
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema_rs.validator_for(template_json_schema())


def test_the_committed_file_is_current() -> None:
    assert main(["--check", "--root", str(ROOT)]) == 0


def test_the_command_writes_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path)]) == 2
    assert "--root" in capsys.readouterr().err
    folder = tmp_path / "schemas" / "json"
    folder.mkdir(parents=True)
    assert main(["--root", str(tmp_path), "--check"]) == 1
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--root", str(tmp_path), "--check"]) == 0
    written = (folder / "template.schema.json").read_bytes()
    assert written == (ROOT / "schemas" / "json" / "template.schema.json").read_bytes()
    (folder / "template.schema.json").write_text("{}")
    assert main(["--root", str(tmp_path), "--check"]) == 1


def test_every_key_of_every_shape_is_in_it() -> None:
    schema = template_json_schema()
    shapes: dict[str, Shape] = editor_schema._SHAPES
    for name, shape in shapes.items():
        definition = schema if name == "TaskTemplate" else schema["$defs"][name]
        if "anyOf" in definition:
            definition = definition["anyOf"][1]
        assert set(definition["properties"]) == set(shape.keys) | shape.ignored, name
        assert definition["additionalProperties"] is False


@pytest.mark.parametrize("file", sorted(DATA.glob("*.yaml")), ids=lambda file: file.stem)
def test_seed_templates_fit(file: Path, validator: Any) -> None:
    validator.validate(yaml.safe_load(file.read_text()))
    validator.validate(load_template(file.read_bytes()).template.canonical())


@pytest.mark.parametrize(
    "step",
    [
        "name: a, handler: h",
        "name: a, handler_class: h, handler: ~",
        "name: a, handler: {callable: h, initialization: {a: ~}}",
        "name: a, handler: h, retry: {initial_delay: 2.5, limit: 3, retryable: true}",
        "name: a, handler: h, timeout_seconds: ~, retry: ~, depends_on: []",
        "name: a, wait_for_signal: {name: go}",
        "name: a, child_task: {name: t, version: 1.0}",
        "name: a, wait_for_signal: {name: go, default: false, payload_schema: {type: boolean}}",
        "name: a, wait_for_signal: {name: go, default: [1, {a: ~}]}",
        "name: a, wait_for_signal: {name: go, default: ~, payload_schema: ~}",
        "name: a, wait_for_signal: {name: go, payload_schema: 5}",
        "name: a, child_task: {name: t, context: {a: '${context.b}'}}",
        "name: a, handler: h, type: batchable, batch_config: {failure_strategy: never}",
        "name: a",
        "handler: h",
        "name: a b, handler: h",
        "name: a, handler: h, retrys: {}",
        "name: a, handler: h, retry: {limit: 0}",
        "name: a, handler: h, retry: {backoff: quick}",
        "name: a, handler: {method: run}",
        "name: a, handler: h, timeout_seconds: 0",
        "name: a, handler: h, depends_on: {a: b}",
        "name: a, handler: h, step_type: quick",
        "name: a, handler_config: {}",
    ],
)
def test_it_agrees_with_the_loader(step: str, validator: Any) -> None:
    text = f"name: t\nsteps: [{{{step}}}]"
    template, _ = check_template(text)
    assert validator.is_valid(yaml.safe_load(text)) == (template is not None)
