"""Certificates in QEMU's own layout, as contexts for the two legs of a route.

A directory is what QEMU takes as ``tls-creds-x509,dir=`` (``crypto/tlscredsx509.c``):

    ca-cert.pem                      whom we believe
    ca-crl.pem                       whom no more, optional
    server-cert.pem server-key.pem   the leg that sources connect to
    client-cert.pem client-key.pem   the leg to the destination; optional, where the destination verifies no peer

``credentials:NAME`` instead of a directory: the same files as systemd's credentials, ``NAME_server-key.pem`` and so on
in ``$CREDENTIALS_DIRECTORY``, which is what ``LoadCredential=NAME:/etc/pki/qemu`` in a unit makes of a directory
(systemd.exec(5)). They are root's before the service starts, and nobody's but the service's afterwards.

Contexts are built with the rest of a snapshot, so a reload brings new certificates into force for the migrations that
begin then, and ``check-config`` judges them. Nothing here touches a connection (:mod:`proxyd.relay.tls_leg` does).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from proxyd.config import Config, TlsConfig

# Names of OpenSSL's to those of RFC 4514, as GnuTLS writes them and QEMU's authz-list compares them.
_ATTRIBUTES: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "emailAddress": "EMAIL",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
_CREDENTIALS: Final = "credentials:"

# What systemd takes as the name of a credential, without what would lead out of the directory.
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

_SPECIAL: Final = re.compile(r'(^[ #]|[,+"\\<>;=]| $)')


class TlsError(Exception):
    """A directory cannot be used. ``str()`` is one sentence: file, what was expected, what was found."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files of a directory whose names begin alike; ``/`` gives one, as of a :class:`~pathlib.Path`."""

    directory: Path
    prefix: str

    def __truediv__(self, name: str) -> Path:
        return self.directory / f"{self.prefix}{name}"


Directory: TypeAlias = Path | Credentials


def directory_of(config: Config, text: str, environment: Mapping[str, str]) -> Directory:
    """What ``source`` or ``destination`` of a ``[route.tls]`` names.

    :raises TlsError: credentials, and this process has none.
    """
    if not text.startswith(_CREDENTIALS):
        return config.relative(text)
    name = text.removeprefix(_CREDENTIALS)
    if not _CREDENTIAL.fullmatch(name):
        raise TlsError(f"expected credentials:NAME with the name of a LoadCredential=, found {text!r}")
    where = environment.get("CREDENTIALS_DIRECTORY")
    if not where:
        message = f"expected a service with LoadCredential={name}:DIRECTORY, found no CREDENTIALS_DIRECTORY"
        raise TlsError(f"{text}: {message}")
    return Credentials(Path(where), f"{name}_")


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The leg that sources connect to. Without ``identities`` everybody whom the context accepts may migrate."""

    context: ssl.SSLContext
    identities: frozenset[str]


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The leg to the destination. ``hostname`` is what its certificate must say, None for the host that is dialled."""

    context: ssl.SSLContext
    hostname: str | None


def server_tls(config: TlsConfig, directory: Directory) -> ServerTls:
    """What sources connect to.

    :raises TlsError: a file is missing, is no certificate or key, or does not go with the others.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _own(context, directory, "server")
    if config.verify_source:
        context.verify_mode = ssl.CERT_REQUIRED
    _authority(context, directory)
    _accepts_itself(context, directory)
    return ServerTls(_hardened(context), frozenset(config.source_identities))


def client_tls(config: TlsConfig, directory: Directory) -> ClientTls:
    """What dials the destination. Raises as :func:`server_tls`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _authority(context, directory)
    if (directory / "client-cert.pem").exists():
        _own(context, directory, "client")
    return ClientTls(_hardened(context), config.hostname)


def distinguished_name(subject: Sequence[Sequence[tuple[str, str]]]) -> str:
    """A certificate's subject, as :meth:`ssl.SSLSocket.getpeercert` has it, in the form of RFC 4514.

    The most particular part is first: ``CN=host.example,O=Example,C=GB``.
    """
    return ",".join("+".join(_attribute(name, value) for name, value in part) for part in reversed(subject))


def identity_of(certificate: dict[str, Any] | None) -> str | None:
    """Whom a peer's certificate names; None for a peer without one."""
    return distinguished_name(certificate["subject"]) if certificate else None


def _attribute(name: str, value: str) -> str:
    return f"{_ATTRIBUTES.get(name, name)}={_SPECIAL.sub(_escaped, value)}"


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


def _own(context: ssl.SSLContext, directory: Directory, side: str) -> None:
    certificate, key = directory / f"{side}-cert.pem", directory / f"{side}-key.pem"
    for file in (certificate, key):
        _readable(file)
    try:
        # A key with a passphrase would make OpenSSL ask on the terminal; a daemon has none.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        why = "the key is of another certificate" if "MISMATCH" in str(error) else str(error)
        raise TlsError(f"{certificate}: expected a certificate, and its key in {key.name}, found: {why}") from error


def _authority(context: ssl.SSLContext, directory: Directory) -> None:
    file = directory / "ca-cert.pem"
    _readable(file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise TlsError(f"{file}: expected a certificate of an authority, found: {error}") from error
    revoked = directory / "ca-crl.pem"
    if revoked.exists():
        _readable(revoked)
        try:
            context.load_verify_locations(revoked)
        except ssl.SSLError as error:
            raise TlsError(f"{revoked}: expected a list of revoked certificates, found: {error}") from error
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _readable(file: Path) -> None:
    try:
        file.read_bytes()
    except OSError as error:
        raise TlsError(f"{file}: cannot be read: {error.strerror}") from error


def _accepts_itself(server: ssl.SSLContext, directory: Directory) -> None:
    """A handshake in memory: is the certificate one that a source with the same authority accepts today?"""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    _authority(client, directory)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for turn in range(4):
        try:
            ends[turn % 2].do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            if turn % 2:
                return  # our end as a client shows no certificate, which a source has to
            message = f"{directory / 'server-cert.pem'}: expected a valid certificate of the authority in ca-cert.pem"
            raise TlsError(f"{message}, found: {error.verify_message}") from error
        except ssl.SSLError:
            return


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Kernel TLS, where Python (3.12) and the host's kernel have it; silently the library's own otherwise.
    context.options |= getattr(ssl, "OP_ENABLE_KTLS", 0)
    # Nothing is ever resumed, and a ticket is a write that QEMU's destination does not wait for.
    context.options |= ssl.OP_NO_TICKET
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # TLS 1.3's, which the option leaves
    return context
