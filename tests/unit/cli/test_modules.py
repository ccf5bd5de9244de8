"""Handler modules by name and by path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepweave_orchestrator.cli.errors import CommandError, ExitCode
from stepweave_orchestrator.cli.modules import load_modules


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder of the test's own; modules imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def write(path: str, text: str = "") -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def test_by_name_from_the_working_folder() -> None:
    write("cli_mod_a.py", "X = 1")
    [module] = load_modules(["cli_mod_a"])
    assert module.X == 1


def test_a_path_may_import_its_neighbours() -> None:
    write("shop/cli_mod_prices.py", "PRICE = 3")
    write("shop/cli_mod_b.py", "from cli_mod_prices import PRICE")
    [module] = load_modules(["./shop/cli_mod_b.py"])
    assert module.PRICE == 3


def test_two_files_of_one_name() -> None:
    write("one/cli_handlers.py", "N = 1")
    write("two/cli_handlers.py", "N = 2")
    first, second = load_modules(["one/cli_handlers.py", "two/cli_handlers.py"])
    assert (first.N, second.N) == (1, 2)
    assert (first.__name__, second.__name__) == ("cli_handlers", "two_cli_handlers")
    assert load_modules(["one/cli_handlers.py"]) == [first]


def test_a_file_inside_a_package_is_a_part_of_it() -> None:
    write("cli_pkg/__init__.py")
    write("cli_pkg/names.py", "NAME = 'x'")
    write("cli_pkg/steps.py", "from .names import NAME")
    [module] = load_modules(["cli_pkg/steps.py"])
    assert module.__name__ == "cli_pkg.steps"
    [package] = load_modules(["cli_pkg"])
    assert package.__name__ == "cli_pkg"
    assert load_modules(["./cli_pkg"]) == [package]


def test_a_folder_stands_for_its_handlers() -> None:
    write("example/handlers.py", "WHICH = 'example'")
    write("example/other.py", "raise RuntimeError")
    write("loose/cli_one.py")
    write("loose/cli_two.py")
    write("loose/test_cli_one.py", "raise RuntimeError")
    [module] = load_modules(["example"])
    assert module.WHICH == "example"
    assert [one.__name__ for one in load_modules(["./loose"])] == ["cli_one", "cli_two"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("cli_no_such_module", ExitCode.NOT_FOUND),
        ("cli_no.such.module", ExitCode.NOT_FOUND),
        ("./nowhere.py", ExitCode.NOT_FOUND),
        ("not a module", ExitCode.USAGE),
    ],
)
def test_what_is_not_there(name: str, code: ExitCode) -> None:
    with pytest.raises(CommandError) as refused:
        load_modules([name])
    assert refused.value.code is code


def test_a_broken_module_is_told_with_file_and_line() -> None:
    write("cli_broken.py", "x = 1\nboom()\n")
    write("cli_syntax.py", "def f(:\n")
    write("cli_missing.py", "import cli_no_such_dependency\n")
    for name, text in (
        ("cli_broken", "cli_broken.py:2"),
        ("./cli_broken.py", "NameError: name 'boom' is not defined"),
        ("./cli_syntax.py", "cli_syntax.py:1"),
        ("cli_missing", "No module named 'cli_no_such_dependency'"),
    ):
        with pytest.raises(CommandError) as refused:
            load_modules([name])
        assert refused.value.code is ExitCode.FAILED
        assert text in str(refused.value)


def test_an_empty_folder() -> None:
    Path("empty").mkdir()
    with pytest.raises(CommandError, match="no module with handlers"):
        load_modules(["./empty"])
