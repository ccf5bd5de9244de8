"""The folders of other systems: where their packages are, and installing them on demand, apart from our own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .child import ChildFailed, Program, run_to_end

INSTALL_TIMEOUT_SECONDS: Final = 600.0
#: The programs that run inside other systems; not part of the installed package.
PEER_PROGRAMS: Final = Path(__file__).parents[3] / "benchmarks" / "peers"
_STAMP: Final = "installed.json"


class PeerMissing(Exception):
    """Another system cannot be measured; the text is a sentence that says why."""


def peer_program(name: str) -> Path:
    """One of the programs in `benchmarks/peers`; raises `PeerMissing`."""
    path = PEER_PROGRAMS / name
    if not path.is_file():
        raise PeerMissing(
            f"benchmarks/peers/{name} is not here: run the benchmark from a checkout of the project"
        )
    return path


class PeerFolder:
    """The folder of one system's packages."""

    def __init__(self, peer: str, folder: Path, logs: Path) -> None:
        self.path = folder
        self._peer = peer
        self._log = logs / f"install-{folder.name}.log"

    def is_installed(self, packages: Sequence[str]) -> bool:
        """Whether these packages were installed here."""
        try:
            return bool(json.loads((self.path / _STAMP).read_text("utf-8")) == self._wanted(packages))
        except (OSError, ValueError):
            return False

    def _wanted(self, packages: Sequence[str]) -> dict[str, Any]:
        # A virtual environment does not survive that its folder is moved or its Python goes.
        return {"packages": list(packages), "folder": str(self.path), "python": sys.version}

    async def install_with_pip(self, packages: Sequence[str]) -> None:
        """Make a virtual environment with these packages; raises `PeerMissing`."""
        shutil.rmtree(self.path, ignore_errors=True)
        await self._run([sys.executable, "-m", "venv", str(self.path)])
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        await self._run([*pip, "install", "--quiet", *packages])
        self._done(packages)

    async def install_with_npm(self, npm: str, packages: Sequence[str]) -> None:
        """Install these packages, without running their install scripts; raises `PeerMissing`."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        (self.path / "package.json").write_text('{"private": true}\n', "utf-8")
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        await self._run([npm, "install", *quiet, *packages])
        self._done(packages)

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.path / "bin" / "python"

    async def _run(self, command: Sequence[str]) -> None:
        folder = self.path if self.path.exists() else Path.cwd()
        program = Program(f"installing {self._peer}", command, folder, self._log, answers=False)
        try:
            await run_to_end(program, timeout_seconds=INSTALL_TIMEOUT_SECONDS)
        except ChildFailed as error:
            raise PeerMissing(f"{self._peer} could not be installed: {error}") from error

    def _done(self, packages: Sequence[str]) -> None:
        (self.path / _STAMP).write_text(json.dumps(self._wanted(packages)), "utf-8")


def program_on_path(name: str) -> str | None:
    """The full path of a program, None where it is not installed."""
    found = shutil.which(name)
    return None if found is None else str(Path(found).absolute())
