import random
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from berth.local.home import Home, HomeInUse, read_json, write_private
from berth.local.ports import NoFreePort, PortBook

_HOLD = """
import sys
from pathlib import Path
from berth.local.home import Home
with Home(Path(sys.argv[1])).hold():
    print("held", flush=True)
    sys.stdin.read()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_has_one_stack_and_the_refusal_names_its_process(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(home.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HomeInUse, match=f"process id {holder.pid}$"), home.hold():
            pass
        holder.kill()
        holder.wait(10)
        with home.hold():
            assert (home.run / "lock").read_text() != str(holder.pid)


def test_nobody_else_can_look_in(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.hold():
        home.make_credential()
        token = home.credential.read_text().strip()
        home.make_credential()
        assert home.secret(home.admin_key, lambda: "another") == "another"
        assert home.secret(home.admin_key, lambda: "a third") == "another"
    assert home.credential.read_text().strip() == token
    assert len(token) >= 32
    assert [mode(path) for path in (home.root, home.run, home.credential, home.admin_key)] == [
        0o700,
        0o700,
        0o600,
        0o600,
    ]


def test_replicas_of_a_former_life_are_forgotten(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.hold():
        home.registry.mkdir()
        (home.registry / "old.json").write_text("{}")
    with home.hold():
        assert not home.registry.exists()


def test_large_logs_are_moved_aside(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = home.rotate_log("router-0")
    log.parent.mkdir()
    log.write_bytes(b"x")
    assert home.rotate_log("router-0").exists()
    with log.open("ab") as file:
        file.truncate(17 << 20)
    assert not home.rotate_log("router-0").exists()
    assert log.with_suffix(".log.1").exists()


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_private(path, "[1]")
    write_private(path, "[2]")
    assert read_json(path) == [2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]
    path.write_text("{")
    assert read_json(path) is None
    assert read_json(tmp_path / "absent") is None


def test_a_taken_port_gives_way_to_the_next_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        book = PortBook(random.Random(1))
        first = book.near(port)
        assert first > port
        assert book.near(port) > first


def test_internal_ports_differ_and_lie_below_the_ephemeral_range() -> None:
    book = PortBook(random.Random(1))
    ports = [book.internal() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(20_000 <= port < 30_000 for port in ports)


def test_ports_can_run_out() -> None:
    with pytest.raises(NoFreePort):
        PortBook(random.Random(1)).near(65_536)
