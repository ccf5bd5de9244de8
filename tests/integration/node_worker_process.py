"""The Node worker of `examples/node-worker` as a process: its packages, its folder, what it says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/node-worker"
TIMEOUT_SECONDS = 60.0
_INSTALL_TIMEOUT_SECONDS = 240


def installed_packages(cache: pytest.Cache) -> Path:
    """The packages that the example names, installed once into pytest's cache folder.

    Skips the test where this machine has no Node.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("the Node worker needs `node` and `npm`; they are not on the PATH")
    wanted = hashlib.sha256((EXAMPLE / "package.json").read_bytes()).hexdigest()[:16]
    kept: Path = cache.mkdir("node-worker")
    installed = kept / wanted
    if not installed.is_dir():
        with tempfile.TemporaryDirectory(dir=kept) as folder:
            for name in ("package.json", ".npmrc"):
                shutil.copy(EXAMPLE / name, folder)
            npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder]
            done = subprocess.run(
                npm, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_SECONDS, check=False
            )
            assert done.returncode == 0, f"npm install failed:\n{done.stderr}"
            with suppress(OSError):  # another run was quicker
                Path(folder).rename(installed)
                Path(folder).mkdir()
    return installed / "node_modules"


def example_folder(folder: Path, packages: Path) -> Path:
    """The example as a user has it after `npm install`, in a new folder."""
    folder.mkdir()
    for source in EXAMPLE.glob("*.mjs"):
        shutil.copy(source, folder)
    (folder / "node_modules").symlink_to(packages)
    return folder


class NodeWorker:
    """A running worker process; what it says on stderr is kept, a JSON object a line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, folder: Path, nats_url: str, *arguments: str) -> NodeWorker:
        """Start `worker.mjs`; `hear("ready")` says when it takes steps."""
        process = await asyncio.create_subprocess_exec(
            "node",
            "worker.mjs",
            *arguments,
            cwd=folder,
            env={**os.environ, "NATS_URL": nats_url},
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stderr is not None
        try:
            async for line in self.process.stderr:
                try:
                    self.said.append(json.loads(line))
                except ValueError:
                    self.said.append({"what": line.decode()})
                self._news.set()
        finally:
            self._news.set()

    async def hear(self, what: str) -> dict[str, Any]:
        """The first thing that it said with this `what`."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                self._news.clear()
                for said in self.said:
                    if said["what"] == what:
                        return said
                assert not self._reader.done(), f"the worker ended without saying {what!r}: {self.said}"
                await self._news.wait()

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self._reader
            return await self.process.wait()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()
