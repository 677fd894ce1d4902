"""Migrations on the real PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

from berth.settings import SettingsError
from controller import migrate
from controller.store import address
from controller.store.schema import HEAD, metadata


def test_a_new_database_gets_every_table_and_matches_the_models(empty_database_url: str) -> None:
    assert migrate.current_revision(empty_database_url) is None
    with pytest.raises(SettingsError, match="migrate it"):
        migrate.check_current(empty_database_url)
    migrate.ensure_current(empty_database_url)
    migrate.check_current(empty_database_url)
    with psycopg.connect(address.libpq_url(empty_database_url)) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        unlogged = connection.execute("SELECT relname FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'")
        observed = {"observed_cells", "observed_pools", "observed_replicas", "observed_servables"}
        assert {row[0] for row in unlogged} == observed
    assert {row[0] for row in rows} == {*metadata.tables, "alembic_version"}
    command.check(migrate.configuration(empty_database_url))


def test_the_revision_in_the_code_is_the_newest_in_the_folder() -> None:
    assert ScriptDirectory.from_config(migrate.configuration("postgresql://x")).get_current_head() == HEAD


def test_down_and_up_again(empty_database_url: str) -> None:
    configuration = migrate.configuration(empty_database_url)
    command.upgrade(configuration, "head")
    command.downgrade(configuration, "base")
    assert migrate.current_revision(empty_database_url) is None
    command.upgrade(configuration, "head")
    command.check(configuration)


def test_tenants_of_the_release_before_have_no_new_limits_and_it_may_go_on_adding_some(empty_database_url: str) -> None:
    configuration = migrate.configuration(empty_database_url)
    command.upgrade(configuration, "0001")
    insert = (
        "INSERT INTO tenants (name, max_models, max_bytes, requests_per_second, max_concurrent) VALUES (%s, 1, 1, 0, 0)"
    )
    with psycopg.connect(address.libpq_url(empty_database_url), autocommit=True) as connection:
        connection.execute(insert, ["before"])
        command.upgrade(configuration, "0002")
        connection.execute(insert, ["during"])
        rows = connection.execute("SELECT name, bytes_per_second, weight FROM tenants ORDER BY name").fetchall()
    assert rows == [("before", 0.0, 1.0), ("during", 0.0, 1.0)]


def test_jobs_of_the_release_before_are_scaled_by_hand_and_it_may_go_on_adding_some(empty_database_url: str) -> None:
    configuration = migrate.configuration(empty_database_url)
    command.upgrade(configuration, "0003")
    insert = (
        "INSERT INTO jobs (name, cell, runtime, hardware, replicas, memory_per_replica, service_class) "
        "VALUES (%s, 'local', 'triton', 'cpu', 2, 1, 'prod')"
    )
    observe = (
        "INSERT INTO observed_replicas (cell, replica, job, connected, draining, memory_limit, memory_used, in_flight, "
        "seen_at, fingerprint) VALUES ('local', %s, 'j', true, false, 1, 1, 0, 0, '')"
    )
    with psycopg.connect(address.libpq_url(empty_database_url), autocommit=True) as connection:
        connection.execute("INSERT INTO cells (name, generation) VALUES ('local', 1)")
        for name in ("before", "during"):
            connection.execute(insert, [name])
            connection.execute(observe, [name])
            if name == "before":
                command.upgrade(configuration, "0004")
        jobs = connection.execute("SELECT from_file, scaling, wished_replicas, desired_replicas FROM jobs").fetchall()
        loads = connection.execute("SELECT completed, busy_s, serving, loads FROM observed_replicas").fetchall()
    assert jobs == [(False, None, None, None)] * 2
    assert loads == [(0, 0.0, False, {})] * 2


def test_concurrent_starts_migrate_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(_upgrade, [empty_database_url] * 3))
    assert migrate.current_revision(empty_database_url) == HEAD


def test_a_database_of_a_newer_berth_is_left_alone(database_url: str) -> None:
    with psycopg.connect(address.libpq_url(database_url), autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match=r"at revision 9999, this controller knows"):
        migrate.ensure_current(database_url)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgresql://u:p%40@h/d", "postgresql+psycopg://u:p%40@h/d"),
        ("postgres://h/d", "postgresql+psycopg://h/d"),
        ("postgresql+psycopg://u@/d?host=%2Ftmp", "postgresql+psycopg://u@/d?host=%2Ftmp"),
    ],
)
def test_urls(given: str, expected: str) -> None:
    assert address.sqlalchemy_url(given) == expected


def _upgrade(url: str) -> None:
    # As separate processes: Alembic keeps the context of a migration in a global of the module.
    import subprocess
    import sys

    script = "import sys; from controller.migrate import ensure_current; ensure_current(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, url], check=True, capture_output=True, timeout=60)


def test_what_was_measured_is_proven_and_the_release_before_may_go_on_adding_versions(empty_database_url: str) -> None:
    configuration = migrate.configuration(empty_database_url)
    command.upgrade(configuration, "0005")
    add = (
        "INSERT INTO versions"
        " (model_id, version, sha256, size_bytes, format, signature, estimated_bytes, measured_bytes)"
        " SELECT id, %s, 'a', 1, 'onnx', '{}', 1, %s FROM models"
    )
    with psycopg.connect(address.libpq_url(empty_database_url), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tenants (name, max_models, max_bytes, requests_per_second, max_concurrent)"
            " VALUES ('acme', 1, 1, 0, 0)"
        )
        connection.execute("INSERT INTO models (tenant, name, description) VALUES ('acme', 'digits', '')")
        connection.execute("INSERT INTO artifacts (sha256, size_bytes) VALUES ('a', 1)")
        connection.execute(add, [1, None])
        connection.execute(add, [2, 7])
        command.upgrade(configuration, "0006")
        connection.execute(add, [3, None])
        rows = connection.execute("SELECT version, proven_at IS NOT NULL FROM versions ORDER BY version").fetchall()
    assert rows == [(1, False), (2, True), (3, False)]


def test_what_was_reserved_is_of_the_host_and_the_release_before_may_go_on_reserving(empty_database_url: str) -> None:
    configuration = migrate.configuration(empty_database_url)
    command.upgrade(configuration, "0007")
    add = (
        "INSERT INTO jobs (name, cell, runtime, hardware, replicas, memory_per_replica, reserved_bytes, service_class) "
        "VALUES (%s, 'local', 'triton', 'cpu', 2, 10, 3, 'prod')"
    )
    with psycopg.connect(address.libpq_url(empty_database_url), autocommit=True) as connection:
        connection.execute("INSERT INTO cells (name, generation) VALUES ('local', 1)")
        connection.execute(add, ["before"])
        command.upgrade(configuration, "0008")
        connection.execute(add, ["during"])
        rows = connection.execute("SELECT name, capacity, reserved FROM jobs ORDER BY name").fetchall()
    assert rows == [("before", {"host": 10}, {"host": 3}), ("during", None, None)]
