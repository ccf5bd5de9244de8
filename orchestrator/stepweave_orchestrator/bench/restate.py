"""Restate as a contender: its server, a service whose steps are `ctx.run` in one Node process, an HTTP client."""

from __future__ import annotations

import asyncio
import json
import platform
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from stepweave_orchestrator.embedded.ports import HOST, pick

from .child import Child, ChildFailed, Program, running
from .installing import PeerFolder, PeerMissing, peer_program, program_on_path
from .peers import Peer, PeerPlace

KEY: Final = "restate"
NAME: Final = "Restate"
PACKAGES: Final = ("@restatedev/restate-server@^1.7", "@restatedev/restate-sdk@^1.17")
#: Fewer than its default of 24: on a few cores that is quicker.
PARTITIONS: Final = 4
START_TIMEOUT_SECONDS: Final = 60.0
_REQUEST_TIMEOUT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_MACHINES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


@asynccontextmanager
async def running_restate(place: PeerPlace) -> AsyncIterator[Peer]:
    """A Restate server with the benchmark's service; raises `PeerMissing`, `ChildFailed`."""
    node, npm = program_on_path("node"), program_on_path("npm")
    if node is None or npm is None:
        raise PeerMissing(
            f"{NAME} needs Node.js: there is no {'node' if node is None else 'npm'} on the PATH"
        )
    service_program, client_program = peer_program("restate_service.mjs"), peer_program("restate_client.mjs")
    folder = PeerFolder(NAME, place.packages / KEY, place.logs)
    if not folder.is_installed(PACKAGES):
        if not place.install:
            raise PeerMissing(f"{NAME} is not installed yet: run `stepweave bench` once without --quick")
        await folder.install_with_npm(npm, PACKAGES)
    server_program = _server_program(folder)
    ingress, admin, service, internal = (pick() for _ in range(4))

    def program(name: str, *command: str, **environment: str) -> Program:
        log = place.logs / f"{KEY}-{name}.log"
        return Program(f"the {NAME} {name}", command, folder.path, log, environment, answers=name != "server")

    data = place.data / KEY
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running(
                program(
                    "server",
                    *(str(server_program), "--base-dir", str(data)),
                    RESTATE_NODE_NAME="bench",
                    RESTATE_LISTEN_MODE="tcp",
                    RESTATE_BIND_ADDRESS=f"{HOST}:{internal}",
                    RESTATE_ADVERTISED_ADDRESS=f"http://{HOST}:{internal}/",
                    RESTATE_INGRESS__BIND_ADDRESS=f"{HOST}:{ingress}",
                    RESTATE_ADMIN__BIND_ADDRESS=f"{HOST}:{admin}",
                    RESTATE_DEFAULT_NUM_PARTITIONS=str(PARTITIONS),
                    RESTATE_DISABLE_TELEMETRY="true",
                    RESTATE_ADMIN__DISABLE_WEB_UI="true",
                    RESTATE_LOG_FILTER="warn",
                    DO_NOT_TRACK="1",
                ),
                ready=partial(_answers, f"http://{HOST}:{admin}/health"),
            )
        )
        endpoint = await stack.enter_async_context(
            running(
                program(
                    "service",
                    *(node, str(service_program), str(service)),
                    NODE_ENV="production",
                    RESTATE_LOGGING="ERROR",
                )
            )
        )
        await _register(f"http://{HOST}:{admin}/deployments", f"http://{HOST}:{service}")
        client = await stack.enter_async_context(
            running(program("client", *(node, str(client_program), f"http://{HOST}:{ingress}")))
        )
        settings: dict[str, Any] = await client.ask(
            {"measure": "settings"}, timeout_seconds=START_TIMEOUT_SECONDS
        )
        settings |= {
            "version": _version(folder),
            "partitions": PARTITIONS,
            "steps": "ctx.run in one Node process",
        }
        yield Peer(NAME, [client], {"server": [server.pid], "service": [endpoint.pid]}, settings)


def _server_program(folder: PeerFolder) -> Path:
    """The server's own program, without the Node script around it; raises `PeerMissing`."""
    system, machine = platform.system().lower(), _MACHINES.get(platform.machine().lower(), "")
    package = folder.path / "node_modules" / "@restatedev" / f"restate-server-{system}-{machine}"
    program = package / "bin" / "restate-server"
    if not program.is_file():
        raise PeerMissing(
            f"{NAME}'s npm package has no server for this system ({system}, {platform.machine()})"
        )
    return program


def _version(folder: PeerFolder) -> str:
    package = folder.path / "node_modules" / "@restatedev" / "restate-server" / "package.json"
    return str(json.loads(package.read_text("utf-8"))["version"])


async def _answers(health_url: str, _server: Child) -> None:
    """Wait until the server answers."""
    while True:
        try:
            await asyncio.to_thread(_request, health_url, None)
        except OSError:
            await asyncio.sleep(_POLL_SECONDS)
        else:
            return


async def _register(deployments_url: str, service_url: str) -> None:
    """Tell the server of the service; it may not be ready for that at once. Raises `ChildFailed`."""
    last: Exception | None = None
    try:
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            while True:
                try:
                    await asyncio.to_thread(_request, deployments_url, {"uri": service_url})
                except OSError as error:
                    last = error
                    await asyncio.sleep(_POLL_SECONDS)
                else:
                    return
    except TimeoutError:
        raise ChildFailed(f"the {NAME} server did not take the service: {last}") from last


def _request(url: str, body: dict[str, Any] | None) -> None:
    """GET, or POST where there is a body; raises `OSError` for any answer but success."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_SECONDS) as answer:
        answer.read()
