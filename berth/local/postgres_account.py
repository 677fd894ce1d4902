"""As whom PostgreSQL runs: the server refuses to be root, and a laptop's or container's user often is.

As root, the server runs as the owner of its data. New data belongs to `nobody` where that account can reach both the
folder and the binaries. Where it cannot (a checkout below /root), the server runs in a user namespace in which root
looks like an ordinary user. Where namespaces are forbidden (Docker's default), it runs as `nobody`, with leave to pass
the folders above its data.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class PostgresAccount:
    """How to start a command as the server's user: `prefix` goes before it, `options` to `subprocess`."""

    name: str
    owner: int
    prefix: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def chown(self, path: Path) -> None:
        """Give `path` to the account; nothing to do unless we are root."""
        if os.geteuid() == 0:
            os.chown(path, self.owner, -1)

    def can_use(self, binary: Path, folder: Path) -> bool:
        """Whether the account can run `binary` and write into `folder`; found out by trying."""
        probe = '"$0" --version && test -w "$1" && test -x "$1"'
        command = [*self.prefix, "/bin/sh", "-c", probe, str(binary), str(folder)]
        try:
            result = subprocess.run(
                command, capture_output=True, check=False, timeout=20, cwd="/", env=environment(), **self.options
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return result.returncode == 0


def environment() -> dict[str, str]:
    """The whole environment of PostgreSQL's programs: nothing of ours, least of all our settings, is passed on."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def candidates(existing_owner: int | None) -> Iterator[PostgresAccount]:
    """The accounts to try, best first. `existing_owner` is the user id that owns data made earlier, None for new."""
    me = os.geteuid()
    # initdb wants its user to have a name: `nobody` has one everywhere, and inside we are the only user anyway.
    ids = (f"--map-user={_nobody()}", f"--map-group={_nobody()}")
    namespace = PostgresAccount("this user in a user namespace", me, ("unshare", "--user", *ids, "--"))
    if me != 0:
        if _known(me):
            yield PostgresAccount("this user", me)
        yield namespace
        return
    if existing_owner == 0:
        yield namespace
        return
    uid = existing_owner if existing_owner is not None else _nobody()
    group = pwd.getpwuid(uid).pw_gid if _known(uid) else uid
    yield PostgresAccount(f"user {uid}", uid, options={"user": uid, "group": group, "extra_groups": []})
    if existing_owner is None:
        yield namespace
    capability = "+dac_override"
    yield PostgresAccount(
        f"user {uid} with CAP_DAC_OVERRIDE",
        uid,
        (
            *("setpriv", f"--reuid={uid}", f"--regid={group}", "--clear-groups"),
            *(f"--inh-caps={capability}", f"--ambient-caps={capability}", "--"),
        ),
    )


def _nobody() -> int:
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return 65534


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
