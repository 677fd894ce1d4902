"""How the routers of other cells are reached: as any client reaches them, with no credential of this deployment.

They are asked by name at their clients' ports, over TLS or in cleartext, and see the key of the client that asks.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

import structlog

from berth.auth.contexts import RotatingContext
from berth.settings import SettingsError

log = structlog.get_logger(__name__)

SYSTEM = "system"


class Strangers:
    """How a dialer reaches them. `tls`: empty for cleartext, `SYSTEM` for the machine's authorities, or a file of
    authorities (PEM), which may be replaced.

    Raises `SettingsError` for a file that is none.
    """

    def __init__(self, tls: str) -> None:
        self._tls = tls
        self._authorities = Authorities(None if tls == SYSTEM else Path(tls)) if tls else None

    def __repr__(self) -> str:
        return f"<Strangers {self._tls or 'in cleartext'}>"

    @property
    def scheme(self) -> str:
        return "http" if self._authorities is None else "https"

    def headers(self) -> Mapping[str, str]:
        """Nothing that is ours goes there."""
        return {}

    def client_tls(self) -> ssl.SSLContext | None:
        """A context that verifies the name that was dialled."""
        return None if self._authorities is None else RotatingContext(self._authorities, server_side=False)


class Trusted:
    """Authorities as they were at one moment; None are the machine's."""

    def __init__(self, pem: str | None) -> None:
        self._pem = pem
        self.context(server_side=False)

    def context(self, *, server_side: bool) -> ssl.SSLContext:
        """A fresh TLS 1.2 or 1.3 context of a client."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._pem is None:
            context.load_default_certs()
        else:
            # Not `create_default_context`: it takes an empty file for every authority that the system knows.
            context.load_verify_locations(cadata=self._pem)
        return context


class Authorities:
    """Follows a file of authorities; one that cannot be used changes nothing. Without a file they are the machine's."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp = self._look()
        try:
            self._trusted = self._read()
        except (OSError, ValueError) as error:  # `ssl.SSLError` is an OSError
            raise SettingsError(f"BERTH_OTHER_CELLS_TLS: cannot use {path}: {error}") from None

    def current(self) -> Trusted:
        """The newest that can be used."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._trusted = self._read()
            except (OSError, ValueError) as error:
                log.warning("authorities of other cells cannot be read; the old ones stay in use", error=str(error))
        return self._trusted

    def _read(self) -> Trusted:
        return Trusted(None if self._path is None else self._path.read_text("ascii"))

    def _look(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
