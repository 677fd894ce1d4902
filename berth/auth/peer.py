"""The deployment's credential: every internal port accepts only peers that present it.

Two ways, one interface. Mutual TLS: a peer's certificate must chain to the deployment's authority. Or, on loopback
only, a token from a file that `berth up` makes: it travels in the header `berth-credential` and never in an argument
or a log.
"""

from __future__ import annotations

import hmac
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from berth.settings import ProcessSettings, SettingsError

HEADER = "berth-credential"

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
class TlsFiles:
    """The PEM files of this process."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class PeerCredential:
    """Build channels and ports that carry and demand the credential."""

    _token: str | None = field(repr=False, default=None)
    _tls: TlsFiles | None = None

    @classmethod
    def from_settings(cls, settings: ProcessSettings) -> PeerCredential:
        """Read the files that `settings` names. Raises `SettingsError` if there is no complete credential."""
        files = (settings.tls_cert, settings.tls_key, settings.tls_ca)
        cert, key, ca = files
        if cert is not None and key is not None and ca is not None:
            for path in (cert, key, ca):
                _read(path)
            return cls(_tls=TlsFiles(cert, key, ca))
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
        return self._tls

    def headers(self) -> dict[str, str]:
        """Headers that an HTTP request to a peer must carry."""
        return {} if self._token is None else {HEADER: self._token}

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata that a gRPC call to a peer must carry. (Interceptors break stream cancellation.)"""
        return tuple(self.headers().items())

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (lower-case names) comes from a peer. TLS has already decided."""
        if self._token is None:
            return True
        presented = headers.get(HEADER, "")
        return hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), self._token.encode("ascii"))

    def grpc_channel(self, target: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """A channel to `host:port`. Each call on it passes `metadata=credential.metadata()`."""
        options = _merged(options)
        if self._tls is None:
            self._require_loopback(target)
            return grpc.aio.insecure_channel(target, options=options)
        credentials = grpc.ssl_channel_credentials(
            _read(self._tls.ca), private_key=_read(self._tls.key), certificate_chain=_read(self._tls.cert)
        )
        return grpc.aio.secure_channel(target, credentials, options=options)

    def grpc_server(self, options: Sequence[tuple[str, Any]] = (), **kwargs: Any) -> grpc.aio.Server:
        """A server that refuses calls without the credential."""
        return grpc.aio.server(interceptors=[_Demand(self)], options=_merged(options), **kwargs)

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Listen on `host:port` and return the port. Raises `SettingsError` if it cannot be had."""
        try:
            if self._tls is None:
                self._require_loopback(address)
                port: int = server.add_insecure_port(address)
            else:
                pair = (_read(self._tls.key), _read(self._tls.cert))
                credentials = grpc.ssl_server_credentials([pair], _read(self._tls.ca), require_client_auth=True)
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise SettingsError(f"cannot listen on {address}: {error}") from None
        return port

    def server_tls(self, address: str) -> ssl.SSLContext | None:
        """The TLS context of an HTTP port on `address`, or None where the token guards it."""
        if self._tls is None:
            self._require_loopback(address)
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._tls.ca))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._tls.cert, self._tls.key)
        return context

    def client_tls(self) -> ssl.SSLContext | None:
        """The TLS context of HTTP requests to peers, or None where the token is used."""
        if self._tls is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self._tls.ca))
        context.load_cert_chain(self._tls.cert, self._tls.key)
        return context

    @staticmethod
    def _require_loopback(address: str) -> None:
        host = address.rpartition(":")[0].strip("[]")
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise SettingsError(f"{address} is not loopback: internal ports elsewhere need the three BERTH_TLS_ files")


class _Demand(grpc.aio.ServerInterceptor):
    def __init__(self, credential: PeerCredential) -> None:
        self._credential = credential

        async def refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this port is for the deployment's own processes")

        async def refuse_stream(_: Any, context: grpc.aio.ServicerContext) -> None:
            await refuse(_, context)

        self._refuse = grpc.stream_stream_rpc_method_handler(refuse_stream)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        metadata = {key: value for key, value in handler_call_details.invocation_metadata if isinstance(value, str)}
        if self._credential.accepts(metadata):
            return await continuation(handler_call_details)
        return self._refuse


def _merged(options: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """`CHANNEL_OPTIONS` with `options` in their place where both name one: given twice, gRPC takes the first."""
    return tuple({**dict(CHANNEL_OPTIONS), **dict(options)}.items())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
