"""The certificate of this process, its key and the authority it trusts: read, checked, and read again when replaced.

Kubernetes replaces all three at once, by swapping a symbolic link; other tools write one file after the other. So files
that do not fit together mean only that an update is under way: the last good ones stay in use, and the files are read
again whenever one of them changes.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Gauge

from berth.settings import SettingsError

log = structlog.get_logger(__name__)

# A file's time of change, inode and size; None where there is none.
_Stamp = tuple[int, int, int] | None

_SEQUENCE, _UTC_TIME, _VERSION = 0x30, 0x17, 0xA0


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. Without `ca` nobody is asked for a certificate: so it is on ports for clients."""

    cert: Path
    key: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Material:
    """What the files held at one moment, PEM, known to fit together. `expires`: seconds since the Unix epoch."""

    cert: bytes
    key: bytes
    ca: bytes | None
    expires: float

    def context(self, *, server_side: bool) -> ssl.SSLContext:
        """A fresh TLS 1.2 or 1.3 context. Raises `ssl.SSLError` or `ValueError` for PEM that is not right."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            # Not `create_default_context`: to that, an empty file means every authority that the system knows.
            context.load_verify_locations(cadata=self.ca.decode("ascii"))
            context.verify_mode = ssl.CERT_REQUIRED
            if server_side:
                # A resumed session is not verified again: an authority that was removed would live on in tickets.
                context.num_tickets = 0
                context.options |= ssl.OP_NO_TICKET
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with _as_file(self.cert + b"\n" + self.key) as path:
            context.load_cert_chain(path)
        return context


class Certificates:
    """Follows `files`. Its methods may be called from any thread.

    Raises `SettingsError` if the files cannot be used from the start: only later is there something to go on with.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._paths = tuple(path for path in (files.cert, files.key, files.ca) if path is not None)
        self._lock = threading.Lock()
        self._stamps = self._look()
        try:
            self._material = self._read()
        except (OSError, ValueError) as error:  # `ssl.SSLError` is an OSError
            if isinstance(error, OSError) and error.filename:
                raise SettingsError(f"cannot read {error.filename}: {error.strerror}") from None
            raise SettingsError(f"cannot use {files.cert} and {files.key}: {error}") from None

    def __repr__(self) -> str:
        return f"<Certificates {self.files.cert} until {datetime.fromtimestamp(self._material.expires, UTC):%F %T}>"

    def current(self) -> Material:
        """The newest material that is complete. The same object for as long as the files are the same."""
        with self._lock:
            stamps = self._look()
            if stamps != self._stamps:
                self._take(stamps)
            return self._material

    def _take(self, stamps: tuple[_Stamp, ...]) -> None:
        try:
            material = self._read()
        except (OSError, ValueError) as error:
            log.warning("certificate files do not fit together; the old ones stay in use", error=str(error))
            self._stamps = stamps
            return
        if self._look() != stamps:
            return  # replaced while they were read: the next look reads them whole
        self._stamps, self._material = stamps, material
        log.info("certificate replaced", cert=str(self.files.cert), expires=int(material.expires))

    def _read(self) -> Material:
        cert, key = self.files.cert.read_bytes(), self.files.key.read_bytes()
        material = Material(
            cert, key, self.files.ca.read_bytes() if self.files.ca is not None else None, _end_of_validity(cert)
        )
        material.context(server_side=True)  # refuses a key that is another certificate's
        return material

    def _look(self) -> tuple[_Stamp, ...]:
        return tuple(map(_stamp, self._paths))


def publish_expiry(registry: CollectorRegistry, certificates: Mapping[str, Certificates]) -> None:
    """Say until when the certificates of a process are good, each by its use. Once for a registry."""
    gauge = Gauge(
        "berth_tls_certificate_expires_timestamp_seconds",
        "End of validity of the certificate in use, seconds since the Unix epoch.",
        ["use"],
        registry=registry,
    )

    def expiry(one: Certificates) -> Callable[[], float]:
        return lambda: one.current().expires

    for use, one in certificates.items():
        gauge.labels(use).set_function(expiry(one))


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path from which OpenSSL can read `data`: it takes keys in no other way. In memory where the system has that."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name
        return
    handle = os.memfd_create("pem")
    try:
        with open(handle, "wb", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def _end_of_validity(pem: bytes) -> float:
    """`notAfter` of the first certificate in `pem`, seconds since the Unix epoch. Raises `ValueError`.

    Python's `ssl` does not tell; these are the few fields of RFC 5280, section 4.1, that come before it.
    """
    head, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    text = pem.decode("ascii")
    begin, close = text.find(head), text.find(end)
    if begin < 0 or close < begin:
        raise ValueError("there is no PEM certificate")
    der = ssl.PEM_cert_to_DER_cert(text[begin : close + len(end)])
    try:
        _, certificate, _ = _element(der)
        _, fields, _ = _element(certificate)
        tag, _, rest = _element(fields)
        if tag == _VERSION:
            _, _, rest = _element(rest)  # the serial number
        for _ in range(2):  # signature algorithm and issuer
            _, _, rest = _element(rest)
        tag, validity, _ = _element(rest)
        _, _, after = _element(validity)
        kind, when, _ = _element(after)
    except IndexError:
        raise ValueError("the certificate is cut off") from None
    if tag != _SEQUENCE:
        raise ValueError("the certificate has no validity")
    # UTCTime has two digits for the year, and means 1950 to 2049 by them.
    digits = when.decode("ascii")
    if kind == _UTC_TIME:
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first DER element, and what follows it."""
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return tag, data[start : start + length], data[start + length :]
