"""A real PostgreSQL as a child process, its data in a folder of the project."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import ports
from .binaries import give_to, postgres_account, postgres_programs, reachable_programs
from .errors import EmbeddedFailure, EmbeddedServerError, disk_full
from .process import Account, ServerProcess
from .server import START_TIMEOUT_SECONDS, EmbeddedServer, write_secret

_USER = "stepweave"
_DATABASE = "stepweave"
#: The `PG_VERSION` of the clusters that the embedded programs make and read.
_MAJOR_VERSION = "18"
_INITDB_TIMEOUT_SECONDS = 120.0
_CONNECT_TIMEOUT_SECONDS = 15.0
_FAST_STOP_TIMEOUT_SECONDS = 30.0
_IMMEDIATE_STOP_TIMEOUT_SECONDS = 5.0
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server of our own on 127.0.0.1, for `async with` or by `start` and `stop`.

    It asks for a password (`dsn` carries it), listens on no Unix socket, and keeps its port over `restart`.
    `data_dir` holds `cluster/` (the database's files, made at the first start), `password`, `port` and
    `server.log`. `settings` are PostgreSQL settings by name; `durable=False` turns fsync off, for tests that
    need speed only; the server holds `keep_fds` open as long as it lives.
    """

    name = "PostgreSQL"
    _stop_steps = (
        (signal.SIGINT, _FAST_STOP_TIMEOUT_SECONDS),
        (signal.SIGQUIT, _IMMEDIATE_STOP_TIMEOUT_SECONDS),
    )
    _port_taken_text = "Address already in use"
    _old_server_texts = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        durable: bool = True,
        keep_fds: Sequence[int] = (),
    ) -> None:
        super().__init__(data_dir, port=port, keep_fds=keep_fds)
        self._durable = durable
        self._settings = {**({} if durable else _NOT_DURABLE), **(settings or {})}
        self._account: Account | None = None

    @property
    def dsn(self) -> str:
        """The address, with user and password; valid from the first start on, over restarts too."""
        return self._dsn(_DATABASE)

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    def _dsn(self, database: str) -> str:
        return f"postgresql://{_USER}:{self._password}@{ports.HOST}:{self._address_port}/{database}"

    async def _prepare(self) -> None:
        """Have programs, folder, password and cluster in place."""
        programs = postgres_programs()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._account = postgres_account(self._cluster)
        # Another account needs to pass through, to its cluster folder.
        self.data_dir.chmod(0o700 if self._account is None else 0o711)
        self._programs = reachable_programs(programs, self._account)
        if self._cluster.exists():
            self._check_cluster()
            self._password = self._recall_password()
        else:
            self._password = self._recall_password()
            await self._make_cluster()
        self._clear_stale_pid_file()

    def _check_cluster(self) -> None:
        way_out = "choose another data folder, or remove this one if its data may go"
        try:
            version = (self._cluster / "PG_VERSION").read_text("ascii").strip()
        except FileNotFoundError:
            version = "(unknown)"
        if version != _MAJOR_VERSION:
            raise EmbeddedServerError(
                f"The data in {self._cluster} is of PostgreSQL {version}, and the embedded one is "
                f"{_MAJOR_VERSION}: {way_out}.",
                failure=EmbeddedFailure.WRONG_VERSION,
                server=self.name,
            )
        password = self.data_dir / "password"
        if not password.exists():
            raise EmbeddedServerError(
                f"The password {password} of an existing database is gone: put the file back, {way_out}.",
                failure=EmbeddedFailure.NOT_WRITABLE,
                server=self.name,
            )

    async def _make_cluster(self) -> None:
        """Run initdb in a draft folder that becomes the cluster when it is whole."""
        draft = self.data_dir / "cluster.draft"
        password = self.data_dir / "initdb-password"
        shutil.rmtree(draft, ignore_errors=True)
        process = None
        try:
            draft.mkdir(mode=0o700)
            give_to(draft, self._account)
            write_secret(password, self._password)
            give_to(password, self._account)
            here = self._own_folder(draft)
            command = [str(self._programs / "initdb"), "-D", here, "-U", _USER, "--auth=scram-sha-256"]
            command += [f"--pwfile={here}/../{password.name}", "--no-instructions", "--encoding=UTF8"]
            # The builtin provider: the same order of texts on every machine, whatever locales it has.
            command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            process = self._run(command if self._durable else [*command, "--no-sync"], draft, signal.SIGTERM)
            if not await process.wait_exit(_INITDB_TIMEOUT_SECONDS):
                raise self._timed_out("make its database", _INITDB_TIMEOUT_SECONDS)
            if process.exit_code != 0:
                raise process.death_error()
            draft.rename(self._cluster)
        finally:
            if process is not None and process.exit_code is None:
                await process.kill()
            password.unlink(missing_ok=True)
            shutil.rmtree(draft, ignore_errors=True)

    def _clear_stale_pid_file(self) -> None:
        """Remove the pid file of a dead server, even where its pid belongs to another program by now.

        PostgreSQL itself looks only whether some process has that pid. If a server of this cluster is alive
        after all, it still finds out through its shared memory, and refuses to start.
        """
        import psutil

        path = self._cluster / "postmaster.pid"
        try:
            process = psutil.Process(int(path.read_bytes().split(b"\n", 1)[0]))
            ours = process.name().startswith("postgres") and Path(process.cwd()) == self._cluster.resolve()
        except psutil.AccessDenied:
            return
        except (OSError, ValueError, psutil.NoSuchProcess):
            ours = False
        if not ours:
            path.unlink(missing_ok=True)

    def _spawn(self) -> ServerProcess:
        settings = {
            "listen_addresses": ports.HOST,
            "port": str(self._port),
            "unix_socket_directories": "",
            "cluster_name": "stepweave",
            "logging_collector": "off",
            **self._settings,
        }
        command = [str(self._programs / "postgres"), "-D", self._own_folder(self._cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return self._run(command, self._cluster, signal.SIGINT)

    def _run(self, command: Sequence[str], folder: Path, death_signal: signal.Signals) -> ServerProcess:
        return ServerProcess(
            self.name,
            command,
            folder=folder,
            log=self.log_path,
            death_signal=death_signal,
            account=self._account,
            keep_fds=self._keep_fds,
        )

    def _own_folder(self, folder: Path) -> str:
        """How a server names the folder that it was started in.

        An account that is not ours may not be allowed through the folders above (/root, a private temporary
        folder). On Linux it reaches its working folder all the same, by this name.
        """
        if self._account is not None and sys.platform.startswith("linux"):
            return "/proc/self/cwd"
        return str(folder)

    async def _answers(self, process: ServerProcess) -> bool:
        """The server writes its state to its pid file."""
        try:
            lines = [line.strip() for line in (self._cluster / "postmaster.pid").read_bytes().split(b"\n")]
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == b"%d" % process.pid and lines[7] == b"ready"

    async def _finish_start(self) -> None:
        """Create our database if it is not there; shows too that the server takes connections."""
        import asyncpg

        try:
            connection = await asyncpg.connect(self._dsn("postgres"), timeout=_CONNECT_TIMEOUT_SECONDS)
            try:
                found = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE)
                if found is None:
                    await connection.execute(f"CREATE DATABASE {_DATABASE}", timeout=START_TIMEOUT_SECONDS)
            finally:
                await connection.close(timeout=_CONNECT_TIMEOUT_SECONDS)
        except asyncpg.DiskFullError as error:
            raise disk_full(self.name, self.data_dir) from error
        except (asyncpg.PostgresError, TimeoutError) as error:
            raise EmbeddedServerError(
                f"The embedded PostgreSQL started and then refused a connection ({error or 'time-out'}): "
                f"see its log {self.log_path}.",
                failure=EmbeddedFailure.DIED,
                server=self.name,
            ) from error
