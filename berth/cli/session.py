"""Which servers and which key a command uses: what `berth login` stored, overridden by the environment.

The file is readable for its owner only, because it holds the key. A key is never taken from an argument, where every
user of the machine could read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from berth.client import Berth


class NotLoggedIn(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Session:
    """Base URLs, an API key, and the tenant meant when the key is the platform's."""

    controller: str = "http://127.0.0.1:8080"
    router: str = "http://127.0.0.1:8000"
    key: str = ""
    tenant: str | None = None

    def __repr__(self) -> str:
        return f"<Session controller={self.controller} router={self.router} tenant={self.tenant}>"


def config_file(environ: Mapping[str, str]) -> Path:
    """`$BERTH_CONFIG`, else `berth/config.json` in the user's configuration folder."""
    if given := environ.get("BERTH_CONFIG"):
        return Path(given)
    base = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "berth" / "config.json"


def load(environ: Mapping[str, str]) -> Session:
    """What was stored, with the environment's BERTH_CONTROLLER, _ROUTER, _KEY and _TENANT over it."""
    try:
        stored = json.loads(config_file(environ).read_text())
        session = Session(**stored)
    except FileNotFoundError:
        session = Session()
    except (ValueError, TypeError):
        raise NotLoggedIn(f"{config_file(environ)} cannot be understood: run `berth login` again") from None
    given = {
        name: value
        for name in ("controller", "router", "key", "tenant")
        if (value := environ.get(f"BERTH_{name.upper()}", "").strip())
    }
    return replace(session, **given)


def store(session: Session, environ: Mapping[str, str]) -> Path:
    """Write the session for later commands, and return where."""
    from berth.local.home import write_private

    path = config_file(environ)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, json.dumps(asdict(session), indent=1) + "\n")
    return path


@contextmanager
def connect(tenant: str | None = None) -> Iterator[Berth]:
    """A client for one command. `tenant` overrides the session's. Raises `NotLoggedIn` if there is no key."""
    from berth.client import Berth
    from berth.settings import environment

    session = load(environment())
    if not session.key:
        raise NotLoggedIn("no API key: run `berth login`, or set BERTH_KEY")
    with Berth(
        session.key, controller=session.controller, router=session.router, tenant=tenant or session.tenant
    ) as client:
        yield client
