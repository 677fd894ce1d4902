"""The local registry: entries belong to incarnations, and a bad file hides no good one."""

from dataclasses import replace
from pathlib import Path

from berth.model import ReplicaAddress
from berth.registry import LocalRegistry

FIRST = ReplicaAddress("cpu-0", "cpu", "local", "one", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")


def test_what_is_announced_can_be_read(tmp_path: Path) -> None:
    LocalRegistry(tmp_path / "registry").announce(FIRST)
    assert LocalRegistry(tmp_path / "registry").read() == {"cpu-0": FIRST}


def test_a_newer_incarnation_replaces_the_entry_and_the_older_cannot_withdraw_it(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    second = replace(FIRST, incarnation="two", control="127.0.0.1:9")
    registry.announce(FIRST)
    registry.announce(second)
    registry.withdraw(FIRST)
    assert registry.read() == {"cpu-0": second}
    registry.withdraw(second)
    registry.withdraw(second)
    assert registry.read() == {}


def test_unreadable_entries_and_drafts_are_left_out(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    registry.announce(FIRST)
    (tmp_path / "torn.json").write_text('{"replica": ')
    (tmp_path / "other.json").write_text('{"replica": "x"}')
    (tmp_path / "cpu-1.one.tmp").write_text("{}")
    assert registry.read() == {"cpu-0": FIRST}


def test_the_folder_is_its_owners(tmp_path: Path) -> None:
    LocalRegistry(tmp_path / "registry")
    assert (tmp_path / "registry").stat().st_mode & 0o077 == 0
