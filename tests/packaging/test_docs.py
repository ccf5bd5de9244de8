"""What the documents say is so: links, code, commands, tables, and the tours, which are run as they stand.

A block of shell commands below `<!-- terminal N in FOLDER, exits CODE -->` is run by `test_tour` (`in FOLDER` and the exit code may be
absent). One that ends in `stepweave dev` keeps running until the same terminal starts it again. Lines of the `text` block that follows
must appear in the output, whatever the numbers in them; lines of `…` stand for any others.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from stepweave_orchestrator.cli.app import command
from stepweave_schemas.template import check_template

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *DOCS.rglob("*.md"),
        REPOSITORY / "deploy" / "README.md",
        REPOSITORY / "worker" / "PROTOCOL.md",
        *(REPOSITORY / "examples").glob("*.md"),
        *(REPOSITORY / "examples").glob("*/*.md"),
    ]
)
#: Pages of this file's owner: their code blocks are checked too.
OWN_PAGES = [page for page in PAGES if page.parent == REPOSITORY or DOCS in page.parents]
LANGUAGES = {"python", "yaml", "json", "sh", "sql", "text", "console", ""}

DEV_READY = "Ctrl-C stops everything"
BLOCK_SECONDS = 90
DEV_SECONDS = 60

_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TERMINAL = re.compile(
    r"<!-- terminal (\d)(?: in (\S+?))?(?:, exits (\d+))? -->\n```sh\n(.*?)^```$"
    r"(?:\n+(?:[^`\n<][^\n]*\n+)?```text\n(.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


def _name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def _prose(page: Path) -> str:
    """The page without its code blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made where Markdown is shown."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


# -- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_prose(page)):
        if "://" in link:
            broken.append(f"{link}: a link to the outside")
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            broken.append(f"{link}: there is no such file")
        elif anchor and anchor not in _anchors(target):
            broken.append(f"{link}: the page has no such heading")
    assert not broken


def test_every_page_can_be_found() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in _LINK.findall(_prose(page))
        if "://" not in link
    }
    orphans = [_name(page) for page in DOCS.rglob("*.md") if page not in linked]
    assert orphans == []


@pytest.mark.parametrize("page", OWN_PAGES, ids=_name)
def test_code_blocks_are_sound(page: Path) -> None:
    for language, code in _FENCE.findall(page.read_text("utf-8")):
        assert language in LANGUAGES, f"{language}: {code[:60]}"
        match language:
            case "python":
                _check_python(code)
            case "json":
                json.loads(code)
            case "sh":
                done = subprocess.run(["bash", "-n"], input=code, text=True, capture_output=True, timeout=60)
                assert done.returncode == 0, done.stderr
            case "yaml" if code.startswith("# template"):
                assert check_template(code)[1] == (), code


def _check_python(code: str) -> None:
    """It compiles, and what it imports from us is there."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0].startswith("stepweave"):
            module = importlib.import_module(node.module or "")
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{node.module} has no {missing}"


def _typed_commands(page: Path) -> Iterator[str]:
    """Every `stepweave …` of a page: lines of its shell blocks, and code in its prose."""
    for language, code in _FENCE.findall(page.read_text("utf-8")):
        if language in ("sh", "console", ""):
            for line in code.splitlines():
                found = re.search(
                    r"(?:^|\$\(|[;|] *|\b[A-Z_]+=\S+ )(stepweave .*)", line.removeprefix("$ ").strip()
                )
                if found:
                    yield re.split(r"\)\"?|[|;&]", found[1], maxsplit=1)[0]
    for code in re.findall(r"`(stepweave [^`]+)`", _prose(page)):
        yield code


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_exist(page: Path) -> None:
    for line in _typed_commands(page):
        node: Any = command()
        words = shlex.split(line.partition(" #")[0])[1:]
        while words and getattr(node, "commands", None) is not None:
            word = words.pop(0)
            if word.startswith("-"):
                continue
            # A noun may stand for all its commands, as in `stepweave task create|get`.
            found = [node.commands.get(each) for each in word.split("|")]
            assert None not in found, f"{line!r}: there is no {word!r}"
            node = found[0]
        known = {
            option for parameter in node.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for word in words:
            if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word):
                assert word.partition("=")[0] in {*known, "--help"}, f"{line!r}: there is no option {word}"


def test_generated_tables_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_test_that_the_failure_table_names_exists() -> None:
    page = (DOCS / "explanation" / "failures.md").read_text("utf-8")
    source = (REPOSITORY / "tests/integration/faults/test_crashes.py").read_text("utf-8")
    defined = set(re.findall(r"^async def (test_\w+)", source, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)(?:\[\w+\])?`", page))
    assert named == defined
    for point in re.findall(r"`test_orchestrator_killed_at_a_crash_point\[(\w+)\]`", page):
        assert f'"{point}"' in source


@pytest.mark.parametrize("image", sorted((DOCS / "images").glob("*.svg")), ids=lambda image: image.name)
def test_pictures_are_sound_and_say_what_they_show(image: Path) -> None:
    root = ElementTree.fromstring(image.read_text("utf-8"))
    names = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in root}
    assert names["title"] and names["desc"]
    assert "prefers-color-scheme: dark" in image.read_text("utf-8")


def test_decisions_are_numbered_dated_and_listed() -> None:
    records = sorted((DOCS / "adr").glob("[0-9]*.md"))
    index = (DOCS / "adr" / "README.md").read_text("utf-8")
    for number, record in enumerate(records, 1):
        text = record.read_text("utf-8")
        assert text.startswith(f"# {number:04d} – ") and record.name.startswith(f"{number:04d}-")
        assert re.search(r"^Date: \d{4}-\d\d-\d\d\. Status: ", text, re.MULTILINE)
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
        assert f"]({record.name})" in index


def test_the_changelog_knows_this_version() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert re.search(
        rf"^## \[{re.escape(version)}\]", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )


# -- tours ---------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Commands to type, and what should come of them."""

    terminal: str
    folder: str
    exit_code: int
    commands: str
    expected: str


class Terminals:
    """Runs blocks as somebody would who has pasted them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder.parent / "dev.log"
        self._dev: subprocess.Popen[bytes] | None = None
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("STEPWEAVE_", "PYTEST_")) and name not in ("DATABASE_URL", "NATS_URL")
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        self._environment = {**kept, "PATH": path, "COLUMNS": "200", "NO_COLOR": "1"}

    def run(self, block: Block) -> str:
        """The output of a block."""
        folder = self.folder / block.folder
        if block.commands.splitlines()[-1].startswith("stepweave dev"):
            self.stop()
            return self._start(block.commands, folder)
        done = subprocess.run(
            ["bash", "-e", "-c", block.commands],
            cwd=folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_SECONDS,
        )
        assert done.returncode == block.exit_code, f"{block.commands}\n{done.stdout}\n{self.dev_output()}"
        return done.stdout

    def _start(self, commands: str, folder: Path) -> str:
        with self.log.open("wb") as log:
            self._dev = subprocess.Popen(
                ["bash", "-e", "-c", commands],
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + DEV_SECONDS
        while DEV_READY not in self.dev_output():
            assert self._dev.poll() is None and time.monotonic() < deadline, self.dev_output()
            time.sleep(0.05)
        return self.dev_output()

    def dev_output(self) -> str:
        """What `stepweave dev` has said."""
        return self.log.read_text("utf-8") if self.log.exists() else ""

    def stop(self) -> None:
        """Press Ctrl-C."""
        dev, self._dev = self._dev, None
        if dev is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(dev.pid, signal.SIGINT)
        try:
            dev.wait(DEV_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(dev.pid, signal.SIGKILL)
        assert "the data stays" in self.dev_output()


def _plain(line: str) -> str:
    """A line without what differs from run to run: numbers, units, ids, names, and how wide columns are."""
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", line)
    line = re.sub(r"cli:\w+", "cli:WHO", line)
    line = re.sub(r"\d+(?:[.,:-]\d+)*Z?(?: (?:ms|s)\b)?", "N", line)
    return " ".join(line.split())


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    folder = tmp_path / "tour"
    folder.mkdir()
    terminals = Terminals(folder)
    try:
        yield terminals
    finally:
        terminals.stop()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/first-workflow.md"])
def test_tour(page: str, terminals: Terminals) -> None:
    text = (REPOSITORY / page).read_text("utf-8")
    blocks = [
        Block(terminal, folder, int(code or 0), commands, expected)
        for terminal, folder, code, commands, expected in _TERMINAL.findall(text)
    ]
    assert len(blocks) == text.count("<!-- terminal ") > 5
    for block in blocks:
        output = {_plain(line) for line in terminals.run(block).splitlines()}
        missing = [
            line
            for line in block.expected.splitlines()
            if line.strip() not in ("", "…") and _plain(line) not in output
        ]
        assert not missing, "\n".join([block.commands, *missing, "--- not in ---", *sorted(output)])
