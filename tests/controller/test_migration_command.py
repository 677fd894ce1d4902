"""`python -m controller.migrate`, as a deployment runs it before its controllers."""

from __future__ import annotations

import asyncio
import sys

from controller import migrate


async def run(url: str) -> tuple[int, str]:
    """Its exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "controller.migrate",
        env={"BERTH_DATABASE_URL": url, "PYTHONPATH": ":".join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_it_migrates_and_ends(empty_database_url: str) -> None:
    assert migrate.current_revision(empty_database_url) is None
    status, said = await run(empty_database_url)
    assert status == 0, said
    migrate.check_current(empty_database_url)
    status, said = await run(empty_database_url)
    assert status == 0, said


async def test_a_database_that_is_away_is_told_without_its_password() -> None:
    status, said = await run("postgresql://berth:hunter2@127.0.0.1:1/berth")
    assert status == 64
    assert "BERTH_DATABASE_URL: the database cannot be reached" in said
    assert "hunter2" not in said


async def test_wrong_settings_are_told() -> None:
    status, said = await run("mysql://x")
    assert status == 64
    assert "BERTH_DATABASE_URL" in said
