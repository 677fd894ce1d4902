"""The deployment's credential: every internal port accepts only peers that present it.

Two ways, one interface. Mutual TLS: a peer's certificate must chain to the deployment's authority, and carry the
deployment's name where it has one. The files may be replaced at any time: connections made from then on use the new
ones. Or, on loopback only, a token from a file that `berth up` makes: it travels in the header `berth-credential` and
never in an argument or a log.
"""

from __future__ import annotations

import hmac
import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry

from berth.auth.certificates import Certificates, Material, TlsFiles, publish_expiry
from berth.auth.channels import RotatingChannel
from berth.auth.contexts import RotatingContext
from berth.auth.demand import Demand
from berth.headers import CREDENTIAL_TEXT
from berth.settings import ProcessSettings, SettingsError

# Complete states are single messages; 100,000 assignments are about 12 MB.
_MESSAGE_LIMIT = 256 * 1024 * 1024
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
    # A peer that vanished without closing is noticed in seconds, not when TCP gives up.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    # Two processes must never share a port by accident; the router asks for it on purpose.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class PeerCredential:
    """Build channels and ports that carry and demand the credential."""

    _token: str | None = field(repr=False, default=None)
    _tls: Certificates | None = None
    # The DNS name in every certificate of the deployment. Empty: a server's certificate names its address.
    _peer_name: str = ""

    @classmethod
    def from_settings(cls, settings: ProcessSettings) -> PeerCredential:
        """Read the files that `settings` names. Raises `SettingsError` if there is no complete credential."""
        files = (settings.tls_cert, settings.tls_key, settings.tls_ca)
        cert, key, ca = files
        if cert is not None and key is not None and ca is not None:
            return cls(_tls=Certificates(TlsFiles(cert, key, ca)), _peer_name=settings.tls_peer_name)
        if any(files):
            raise SettingsError("BERTH_TLS_CERT, BERTH_TLS_KEY and BERTH_TLS_CA go together")
        if settings.credential_file is None:
            raise SettingsError("no credential: set BERTH_CREDENTIAL_FILE (loopback) or the three BERTH_TLS_ files")
        token = _read(settings.credential_file).decode("ascii", "replace").strip()
        if len(token) < 32:
            raise SettingsError(f"the token in {settings.credential_file} is shorter than 32 characters")
        return cls(_token=token)

    @classmethod
    def from_token(cls, token: str) -> PeerCredential:
        return cls(_token=token)

    @property
    def scheme(self) -> str:
        """`https` under mutual TLS, else `http`."""
        return "http" if self._tls is None else "https"

    @property
    def tls_files(self) -> TlsFiles | None:
        """What a child process needs to speak mutual TLS itself, or None where the token is used."""
        return None if self._tls is None else self._tls.files

    def register(self, registry: CollectorRegistry, **others: Certificates) -> None:
        """Publish until when the certificate is good, where there is one, and those of `others` by their use."""
        ours = {} if self._tls is None else {"internal": self._tls}
        if ours or others:
            publish_expiry(registry, {**ours, **others})

    def headers(self) -> dict[str, str]:
        """Headers that an HTTP request to a peer must carry."""
        return {} if self._token is None else {CREDENTIAL_TEXT: self._token}

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata that a gRPC call to a peer must carry. (Interceptors break stream cancellation.)"""
        return tuple(self.headers().items())

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (lower-case names) comes from a peer. TLS has already decided."""
        if self._token is None:
            return True
        presented = headers.get(CREDENTIAL_TEXT, "")
        return hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), self._token.encode("ascii"))

    def grpc_channel(
        self, target: str, options: Sequence[tuple[str, Any]] = (), *, rotates: bool = True
    ) -> grpc.aio.Channel:
        """A channel to `host:port`. Each call on it passes `metadata=credential.metadata()`.

        Without rotation it keeps the certificates of this moment: for a peer that does the same.
        """
        options = _merged(options)
        if self._tls is None:
            self._require_loopback(target)
            return grpc.aio.insecure_channel(target, options=options)
        if self._peer_name:
            options = (*options, ("grpc.ssl_target_name_override", self._peer_name))

        def connect(material: Material) -> grpc.aio.Channel:
            credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.cert)
            return grpc.aio.secure_channel(target, credentials, options=options)

        return RotatingChannel(self._tls, connect) if rotates else connect(self._tls.current())

    def grpc_server(self, options: Sequence[tuple[str, Any]] = (), **kwargs: Any) -> grpc.aio.Server:
        """A server that refuses calls without the credential."""
        demand = Demand(self.accepts, self._peer_name if self._tls is not None else "")
        return grpc.aio.server(interceptors=[demand], options=_merged(options), **kwargs)

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Listen on `host:port` and return the port. Raises `SettingsError` if it cannot be had."""
        try:
            if self._tls is None:
                self._require_loopback(address)
                port: int = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, _server_credentials(self._tls))
        except RuntimeError as error:
            raise SettingsError(f"cannot listen on {address}: {error}") from None
        return port

    def server_tls(self, address: str) -> ssl.SSLContext | None:
        """The TLS context of an HTTP port on `address`, or None where the token guards it."""
        if self._tls is None:
            self._require_loopback(address)
            return None
        return RotatingContext(self._tls, server_side=True, peer_name=self._peer_name)

    def client_tls(self) -> ssl.SSLContext | None:
        """The TLS context of HTTP requests to peers, or None where the token is used.

        It checks the deployment's name, where there is one, instead of the name that a connection is made with.
        """
        if self._tls is None:
            return None
        return RotatingContext(self._tls, server_side=False, peer_name=self._peer_name)

    @staticmethod
    def _require_loopback(address: str) -> None:
        host = address.rpartition(":")[0].strip("[]")
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise SettingsError(f"{address} is not loopback: internal ports elsewhere need the three BERTH_TLS_ files")


def _server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Asks for the files' content at each handshake, in a thread of gRPC's; None there would mean "as before"."""

    def current() -> grpc.ServerCertificateConfiguration:
        material = certificates.current()
        return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], material.ca)

    return grpc.dynamic_ssl_server_credentials(current(), current, require_client_authentication=True)


def _merged(options: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """`CHANNEL_OPTIONS` with `options` in their place where both name one: given twice, gRPC takes the first."""
    return tuple({**dict(CHANNEL_OPTIONS), **dict(options)}.items())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
