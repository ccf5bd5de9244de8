"""The SQL files: each says what it is, and none is left over."""

from __future__ import annotations

import re
from pathlib import Path

import stepweave_eventstore
from stepweave_eventstore.statements import migrations, statement

PACKAGE = Path(stepweave_eventstore.__file__).parent
FILES = sorted((PACKAGE / "sql").glob("*.sql"))


def test_every_statement_begins_with_its_name() -> None:
    assert FILES
    for file in FILES:
        assert statement(file.stem).startswith(f"-- {file.stem}: ")
        assert ";" not in re.sub(r"--.*", "", statement(file.stem)), "one statement in a file"


def test_every_statement_is_used_and_exists() -> None:
    source = "".join(file.read_text("utf-8") for file in PACKAGE.glob("*.py"))
    used = re.findall(r'(?:statement|_on_pool|_on_ledger)\(\s*"(\w+)"', source)
    assert set(used) == {file.stem for file in FILES}


def test_migrations_are_numbered_without_a_gap() -> None:
    numbers = [int(migration.name.split("_")[0]) for migration in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
