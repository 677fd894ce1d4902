"""What many tests share: one real PostgreSQL for the session, and a fresh migrated database for each test."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from berth.local.postgres import PostgresServer
from berth.settings import environment

_TEMPLATE = "berth_migrated_template"


def _in_database(url: str, name: str) -> str:
    head, _, query = url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


def _execute(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a server on which tests may create databases: BERTH_TEST_DATABASE_URL, or one of our own in memory."""
    given = environment().get("BERTH_TEST_DATABASE_URL")
    if given:
        yield given
        return
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="berth-test-", dir=memory if memory.is_dir() else None))
    server = PostgresServer(folder / "pg", durable=False)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated_template(postgres: str) -> Iterator[str]:
    """Name of a database at the newest schema, copied for each test: a copy takes 35 ms, migrating 300."""
    from controller.migrate import ensure_current  # heavy: only for tests that need it

    name = f"{_TEMPLATE}_{uuid.uuid4().hex[:12]}"
    _execute(postgres, f"CREATE DATABASE {name}")
    ensure_current(_in_database(postgres, name))
    yield name
    _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(postgres: str, migrated_template: str) -> Iterator[str]:
    """URL of a migrated database of the test's own."""
    name = f"berth_test_{uuid.uuid4().hex[:12]}"
    _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield _in_database(postgres, name)
    _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database_url(postgres: str) -> Iterator[str]:
    """URL of a database without any schema."""
    name = f"berth_test_{uuid.uuid4().hex[:12]}"
    _execute(postgres, f"CREATE DATABASE {name}")
    yield _in_database(postgres, name)
    _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")
