from __future__ import annotations

from pathlib import Path

import pytest

from stepweave_schemas.template import (
    TEMPLATE_BYTES_MAX,
    TemplateError,
    load_template_file,
    load_templates_dir,
)

GOOD = "name: {0}\nsteps: [{{name: a, handler: {1}}}]\n"


def test_every_file_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b.yaml").write_text(GOOD.format("b", "h"))
    (tmp_path / "deep" / "a.yml").write_text(GOOD.format("a", "h"))
    (tmp_path / "c.json").write_text('{"name": "c", "steps": [{"name": "a", "handler": "h"}]}')
    (tmp_path / "copy_of_b.yaml").write_text("# the same\n" + GOOD.format("b", "h"))
    (tmp_path / "notes.txt").write_text("no template")
    (tmp_path / ".hidden" / "x.yaml").write_text("no template")
    (tmp_path / ".x.yaml").write_text("no template")
    assert [loaded.template.name for loaded in load_templates_dir(tmp_path)] == ["b", "c", "a"]


def test_problems_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: [")
    (tmp_path / "b.yaml").write_text(GOOD.format("b", "h"))
    (tmp_path / "c.yaml").write_text(GOOD.format("b", "other"))
    (tmp_path / "d.yaml").write_text("name: d\nstep: []\n")
    with pytest.raises(TemplateError) as caught:
        load_templates_dir(tmp_path)
    assert [(Path(problem.source).name, problem.code, problem.path) for problem in caught.value.problems] == [
        ("a.yaml", "BAD_YAML", ""),
        ("c.yaml", "BAD_VALUE", "version"),
        ("d.yaml", "BAD_VALUE", "steps"),
        ("d.yaml", "UNKNOWN_KEY", "step"),
    ]


def test_an_empty_folder_and_none(tmp_path: Path) -> None:
    assert load_templates_dir(tmp_path) == []
    with pytest.raises(NotADirectoryError):
        load_templates_dir(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        load_template_file(tmp_path / "nowhere.yaml")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    with file.open("wb") as stream:
        stream.truncate(TEMPLATE_BYTES_MAX * 4_096)  # sparse
    with pytest.raises(TemplateError, match="longer than"):
        load_template_file(file)


def test_messages_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("name: t\nsteps:\n- name: a\n")
    with pytest.raises(TemplateError) as caught:
        load_template_file(file)
    assert str(caught.value) == (
        f"{file}:3: EMPTY_CALLABLE steps[0].handler: no handler is named; add `handler: NAME`"
    )
