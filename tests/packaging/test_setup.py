"""`make setup`, which `make demo` and `make test` begin with: what it does, and what it says when it can not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_SECONDS = 240

#: A Python that only plays the part that .ci/setup uses, and writes down what it was asked.
PRETENDER = """#!/bin/sh
echo "$*" >>"{journal}"
case "$*" in
    *platform*) echo 3.12.1 ;;
    "-m venv --clear .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a space in its name and what `make setup` reads."""
    folder = tmp_path / "a checkout"
    (folder / ".ci").mkdir(parents=True)
    for name in ("Makefile", ".ci/setup", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PIP_"))
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        stdin=subprocess.DEVNULL,
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a set-up that failed."""
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("stepweave: ")]
    assert len(said) == 1, done.stderr
    assert said[0].endswith(".")
    return said[0].removeprefix("stepweave: ")


def fake_python(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_that_is_too_old_or_missing_is_named(checkout: Path, tmp_path: Path) -> None:
    old = fake_python(tmp_path / "old", 'case "$*" in *platform*) echo 3.9.2 ;; *) exit 1 ;; esac')
    done = make(checkout, "test", f"PYTHON={old}")
    assert complaint(done).startswith("Python 3.11 or newer is needed and Python 3.9.2 is too old")
    assert "none was found" in complaint(make(checkout, "demo", f"PYTHON={tmp_path / 'no such'}"))
    assert not (checkout / ".venv").exists()


def test_the_first_python_that_will_do_is_taken(checkout: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "cat", "cksum", "dirname", "mktemp", "rm", "mkdir", "cp"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    make_program = shutil.which("make")
    assert make_program is not None
    (programs / "make").symlink_to(make_program)
    fake_python(programs / "python3", 'case "$*" in *platform*) echo 3.10.1 ;; *) exit 1 ;; esac')
    fake_python(programs / "python3.13", "echo 'no such version' >&2; exit 127")
    journal = tmp_path / "journal"
    (programs / "python3.12").write_text(PRETENDER.format(journal=journal))
    (programs / "python3.12").chmod(0o755)
    done = make(checkout, "setup", PATH=str(programs))
    assert done.returncode == 0, done.stderr
    assert "Making .venv with python3.12" in done.stderr


def test_a_missing_venv_module_is_named(checkout: Path, tmp_path: Path) -> None:
    script = 'case "$*" in *platform*) echo 3.12.3 ;; *ensurepip*) exit 1 ;; esac'
    done = make(checkout, "setup", f"PYTHON={fake_python(tmp_path / 'bare', script)}")
    assert complaint(done).startswith("Python 3.12.3 has no venv module: install it")


def test_setup_works_once_and_again_only_after_a_change(checkout: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    python = tmp_path / "python"
    python.write_text(PRETENDER.format(journal=journal))
    python.chmod(0o755)

    def asked_for() -> list[str]:
        done = make(checkout, "setup", f"PYTHON={python}")
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        lines = journal.read_text().splitlines() if journal.exists() else []
        journal.unlink(missing_ok=True)
        return [line for line in lines if "venv --clear" in line or "pip install" in line]

    install = (
        "-m pip install --quiet --disable-pip-version-check --editable .[dev] --constraint constraints.txt"
    )
    assert asked_for() == ["-m venv --clear .venv", install]
    assert asked_for() == []
    (checkout / "constraints.txt").write_text("another==1.0\n")
    assert asked_for() == [install]
    assert asked_for() == []
    checkout = checkout.rename(tmp_path / "moved")
    assert asked_for() == ["-m venv --clear .venv", install]


def test_no_network_is_named(checkout: Path) -> None:
    # The discard port of this machine: nobody answers there.
    done = make(
        checkout,
        "test",
        f"PYTHON={sys.executable}",
        PIP_INDEX_URL="http://127.0.0.1:9/",
        PIP_CONFIG_FILE=os.devnull,
        PIP_RETRIES="1",
        PIP_NO_CACHE_DIR="1",
    )
    assert complaint(done).startswith("no network: pip can not reach the package index")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named(checkout: Path, small_disk: Path) -> None:
    full = small_disk / "checkout"
    shutil.copytree(checkout, full)
    done = make(full, "demo", f"PYTHON={sys.executable}")
    assert complaint(done).startswith("the disk is full")


def test_arguments_reach_the_program(checkout: Path) -> None:
    done = make(checkout, "--dry-run", "test", 'ARGS=-k "a b" -x')
    assert done.stdout.splitlines()[-1] == '.venv/bin/python -m pytest -k "a b" -x'
    for target in ("help", "setup", "demo", "test", "bench", "check", "clean", "constraints"):
        assert make(checkout, "--dry-run", target).returncode == 0
    listed = make(checkout).stdout
    for target in ("demo", "test", "bench", "check", "setup", "clean"):
        assert f"make {target} " in listed
