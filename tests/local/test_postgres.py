"""The embedded server on real processes: kept data, killed postmasters, dead supervisors, stale lock files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from berth.local.postgres import PostgresError, PostgresServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "pg")
    server.start()
    yield server
    server.stop()


def connect(server: PostgresServer) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True)


def kill(server: PostgresServer) -> None:
    assert server.pid is not None
    process = psutil.Process(server.pid)
    process.kill()
    process.wait(10)


def test_committed_data_survives_kill_9_and_the_url_stays(server: PostgresServer) -> None:
    url = server.url
    with connect(server) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (7)")
        kill(server)
    assert server.pid is None
    server.start()
    assert server.url == url
    with connect(server) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]


def test_starts_again_while_a_backend_of_the_killed_server_is_busy(server: PostgresServer) -> None:
    with connect(server) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)  # it cannot notice that the postmaster is gone
        kill(server)
        waker = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.5; kill -CONT {backend}"])
        server.start()
        waker.wait(10)
        # Without an init process that collects it, the orphan stays behind as a zombie.
        assert not psutil.pid_exists(backend) or psutil.Process(backend).status() == psutil.STATUS_ZOMBIE
    assert server.pid is not None


def test_a_second_server_on_the_same_folder_is_refused(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("berth.local.postgres._RELEASE_TIMEOUT_S", 0.2)
    with pytest.raises(PostgresError, match=f"in use by PostgreSQL process {server.pid}"):
        PostgresServer(tmp_path / "pg").start()
    with connect(server) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "content",
    ["", "{stranger}\n{data}\n1700000000\n5432\n{data}\n\n  1234567 0\nready\n"],
    ids=["never written", "pid of a stranger"],
)
def test_a_lock_file_of_before_a_power_cut_is_no_obstacle(server: PostgresServer, tmp_path: Path, content: str) -> None:
    server.stop()
    text = content.format(stranger=os.getpid(), data=tmp_path / "pg")
    (tmp_path / "pg" / "postmaster.pid").write_text(text)
    (tmp_path / "pg" / ".s.PGSQL.5432.lock").write_text(text)
    server.start()
    with connect(server) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_interrupted_initialisation_is_repeated(tmp_path: Path) -> None:
    aside = tmp_path / ".pg.new" / "data"
    aside.mkdir(parents=True)
    (aside / "PG_VERSION").write_text("18\n")
    server = PostgresServer(tmp_path / "pg", durable=False)
    try:
        server.start()
        with connect(server) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("berth",)
    finally:
        server.stop()
    assert not aside.exists()


def test_the_password_is_asked_for_and_kept_private(server: PostgresServer, tmp_path: Path) -> None:
    password = tmp_path / "pg.password"
    assert password.stat().st_mode & 0o777 == 0o600
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url.replace("+psycopg", "").replace(password.read_text(), "wrong"))
    server.stop()
    password.unlink()
    with pytest.raises(PostgresError, match=r"pg\.password is missing"):
        _ = server.url


def test_a_long_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / ("long" * 25) / "pg", durable=False)
    try:
        server.start()
        with connect(server) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop()


def test_data_of_another_major_version_is_refused_by_name(tmp_path: Path) -> None:
    data = tmp_path / "pg"
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match="was made by PostgreSQL 9; found only"):
        PostgresServer(data)


def test_the_server_stops_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, signal; from pathlib import Path; from berth.local.postgres import PostgresServer\n"
        f"server = PostgresServer(Path({str(tmp_path / 'pg')!r}), durable=False); server.start()\n"
        "sys.stderr.write(f'pid {server.pid}\\n'); sys.stderr.flush(); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stderr is not None
        said = next(line for line in supervisor.stderr if line.startswith("pid "))
        postmaster = psutil.Process(int(said.split()[1]))
        supervisor.kill()
        gone, alive = psutil.wait_procs([postmaster], timeout=20)
    assert alive == []
    assert [process.pid for process in gone] == [postmaster.pid]
