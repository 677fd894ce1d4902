"""TLS contexts that outlive the certificates they were made with."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol


class TlsMaterial(Protocol):
    """What connections are made with at one moment; a fresh context of it."""

    def context(self, *, server_side: bool) -> ssl.SSLContext: ...


class TlsSource(Protocol):
    """Where it comes from: the same object for as long as it is the same."""

    def current(self) -> TlsMaterial: ...


class RotatingContext(ssl.SSLContext):
    """For asyncio (and uvloop): each connection gets the certificate, the key and the authority of its moment.

    An `SSLContext` can be given another certificate, but no authority can be taken out of it. So this one makes none of
    the connections itself: it keeps a plain context for the files as they are, and makes another one when they change.

    With a `peer_name`, the peer's certificate must carry that DNS name: a server's, whatever its address, and a
    client's too. With `common_names`, a client's certificate must be of one of these, as Kubernetes tells its front
    proxy by. Not for blocking sockets.
    """

    def __new__(
        cls,
        certificates: TlsSource,
        *,
        server_side: bool,
        peer_name: str = "",
        common_names: Collection[str] = (),
    ) -> RotatingContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self,
        certificates: TlsSource,
        *,
        server_side: bool,
        peer_name: str = "",
        common_names: Collection[str] = (),
    ) -> None:
        self._certificates = certificates
        self._server_side = server_side
        self._peer_name = peer_name
        self._common_names = frozenset(common_names)
        self._alpn: list[str] = []
        self._made_of: TlsMaterial | None = None
        self._plain: ssl.SSLContext

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        self._alpn = list(alpn_protocols)
        self._made_of = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if not self._server_side:
            server_hostname = self._peer_name or server_hostname
        return self._now().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def wrap_socket(self, *_: Any, **__: Any) -> ssl.SSLSocket:
        raise TypeError("a RotatingContext is for asyncio's connections: a blocking socket would keep one certificate")

    def _now(self) -> ssl.SSLContext:
        material = self._certificates.current()
        if material is not self._made_of:
            self._plain = material.context(server_side=self._server_side)
            if self._alpn:
                self._plain.set_alpn_protocols(self._alpn)
            if self._server_side and (self._peer_name or self._common_names):
                self._plain.sslobject_class = _demanding(self._lacks)
            self._made_of = material
        return self._plain

    def _lacks(self, certificate: Mapping[str, Any]) -> str:
        """The name that a client's certificate lacks, in words; empty if it lacks none."""
        alternatives = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        if self._peer_name and not carries(alternatives, self._peer_name):
            return f"the name {self._peer_name}"
        common = {value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"}
        if self._common_names and self._common_names.isdisjoint(common):
            return f"a common name of {sorted(self._common_names)}"
        return ""


def carries(names: Sequence[str], wanted: str) -> bool:
    """Whether a certificate with these DNS names is that of a peer called `wanted`. No wildcards: nobody needs them."""
    return any(name.lower() == wanted.lower() for name in names)


def _demanding(lacks: Callable[[Mapping[str, Any]], str]) -> type[ssl.SSLObject]:
    """OpenSSL compares names for clients only; a server looks for itself, as the last step of the handshake."""

    class Demanding(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            certificate: Mapping[str, Any] = self.getpeercert() or {}
            if lacking := lacks(certificate):
                raise ssl.SSLCertVerificationError(f"the peer's certificate does not carry {lacking}")

    return Demanding
