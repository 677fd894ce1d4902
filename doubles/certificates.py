"""A certificate authority of a test's own, for mutual TLS on loopback, and files that are replaced under way."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Files(NamedTuple):
    """PEM files of one process, as `BERTH_TLS_CERT`, `_KEY` and `_CA` name them."""

    cert: Path
    key: Path
    ca: Path


class Authority:
    """Issues certificates into `folder`, for `localhost` and 127.0.0.1 unless told otherwise."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_SIGNS_CERTIFICATES, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._ca = folder / "ca.pem"
        self._ca.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        names: Sequence[str] = ("localhost",),
        addresses: Sequence[str] = ("127.0.0.1",),
        lifetime: datetime.timedelta = datetime.timedelta(days=1),
    ) -> Files:
        """A fresh key and certificate for the process called `name`, in place of an earlier one of that name.

        With a `lifetime` below zero it has expired already.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternatives = [*map(x509.DNSName, names), *(x509.IPAddress(ipaddress.ip_address(one)) for one in addresses)]
        certificate = (
            self._builder(subject, key.public_key(), lifetime)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = Files(self._folder / f"{name}.pem", self._folder / f"{name}.key", self._ca)
        files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files.key.chmod(0o600)
        return files

    def _builder(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        lifetime: datetime.timedelta = datetime.timedelta(days=1),
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + lifetime)
            # Python 3.13 and later verify strictly: who is certified, and by which key, must be said.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


class Mount:
    """A secret as the kubelet mounts it at `path`: links through a link that is swapped. `files` stay the same."""

    def __init__(self, path: Path, files: Files) -> None:
        path.mkdir()
        self._path = path
        self._swaps = 0
        self.swap(files)
        self.files = Files(*(path / name for name in Files._fields))
        for file in self.files:
            file.symlink_to(f"..data/{file.name}")

    def swap(self, files: Files) -> None:
        """Replace all three at once."""
        self._swaps += 1
        folder = self._path / f"..{self._swaps}"
        folder.mkdir()
        for name, file in zip(Files._fields, files, strict=True):
            shutil.copyfile(file, folder / name)
        draft = self._path / "..draft"
        draft.symlink_to(folder.name)
        draft.rename(self._path / "..data")
