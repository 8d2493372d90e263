"""Certificates in QEMU's layout: what is accepted, and the sentence for each thing that is not."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from proxyd.config import Config, TlsConfig
from proxyd.tls import Credentials, TlsError, client_tls, directory_of, distinguished_name, identity_of, server_tls
from tests.certificates import CLIENT, make_authority, make_certificate, make_directory, revoke

CONFIG = TlsConfig(source="x", source_identities=(CLIENT,), hostname="other.example")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("pki"))


def copied(pki: Path, directory: Path) -> Path:
    for file in pki.glob("*.pem"):
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def test_a_whole_directory(pki: Path) -> None:
    server = server_tls(CONFIG, pki)
    assert server.identities == {CLIENT}
    assert server.context.verify_mode is ssl.CERT_REQUIRED
    client = client_tls(CONFIG, pki)
    assert client.hostname == "other.example"
    assert client.context.verify_mode is ssl.CERT_REQUIRED
    for context in (server.context, client.context):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_credentials_of_a_service(pki: Path, tmp_path: Path) -> None:
    for file in pki.glob("*.pem"):
        (tmp_path / f"migration_{file.name}").write_bytes(file.read_bytes())
    where = directory_of(Config(), "credentials:migration", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert where == Credentials(tmp_path, "migration_")
    assert server_tls(CONFIG, where).identities == {CLIENT}
    assert client_tls(CONFIG, where).hostname == "other.example"
    (tmp_path / "migration_server-key.pem").unlink()
    with pytest.raises(TlsError, match=r"/migration_server-key\.pem: cannot be read: No such file"):
        server_tls(CONFIG, where)


@pytest.mark.parametrize(
    ("text", "environment", "says"),
    [
        ("credentials:tls", {}, "credentials:tls: expected a service with LoadCredential=tls:DIRECTORY, found no"),
        ("credentials:../tls", {"CREDENTIALS_DIRECTORY": "/x"}, "expected credentials:NAME .*, found 'credentials:"),
        ("credentials:", {"CREDENTIALS_DIRECTORY": "/x"}, "expected credentials:NAME"),
    ],
)
def test_credentials_that_there_are_not(text: str, environment: dict[str, str], says: str) -> None:
    with pytest.raises(TlsError, match=says):
        directory_of(Config(), text, environment)


def test_a_directory_is_taken_from_where_the_configuration_is() -> None:
    assert directory_of(Config(path=Path("/etc/proxyd/config.toml")), "tls", {}) == Path("/etc/proxyd/tls")


def test_a_source_need_not_show_a_certificate_if_the_route_says_so(pki: Path) -> None:
    server = server_tls(TlsConfig(source="x", verify_source=False), pki)
    assert server.context.verify_mode is ssl.CERT_NONE


def test_a_client_certificate_is_optional(pki: Path, tmp_path: Path) -> None:
    directory = copied(pki, tmp_path)
    (directory / "client-cert.pem").unlink()
    assert client_tls(TlsConfig(destination="x"), directory).hostname is None


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("server-cert.pem", None, "server-cert.pem: cannot be read: No such file or directory"),
        ("server-key.pem", None, "server-key.pem: cannot be read: No such file or directory"),
        ("ca-cert.pem", None, "ca-cert.pem: cannot be read: No such file or directory"),
        (
            "server-cert.pem",
            "nonsense",
            "server-cert.pem: expected a certificate, and its key in server-key.pem",
        ),
        ("ca-cert.pem", "nonsense", "ca-cert.pem: expected a certificate of an authority, found"),
        ("ca-crl.pem", "nonsense", "ca-crl.pem: expected a list of revoked certificates, found"),
    ],
)
def test_what_is_wrong_is_named(pki: Path, tmp_path: Path, file: str, content: str | None, says: str) -> None:
    directory = copied(pki, tmp_path)
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_text(content)
    with pytest.raises(TlsError) as caught:
        server_tls(CONFIG, directory)
    assert str(caught.value).startswith(f"{directory}/{says}")


def test_a_key_of_another_certificate(pki: Path, tmp_path: Path) -> None:
    directory = copied(pki, tmp_path)
    (directory / "server-key.pem").write_bytes((pki / "client-key.pem").read_bytes())
    with pytest.raises(TlsError, match=r"found: the key is of another certificate$"):
        server_tls(CONFIG, directory)


def test_a_certificate_that_nobody_would_accept_today(pki: Path, tmp_path: Path) -> None:
    make_directory(tmp_path)
    make_certificate(tmp_path, "server", days=-1)
    with pytest.raises(TlsError, match=r"expected a valid certificate of the authority in ca-cert.pem, found: cert"):
        server_tls(CONFIG, tmp_path)
    make_certificate(tmp_path, "server")
    server_tls(TlsConfig(source="x", verify_source=False), tmp_path)
    make_authority(tmp_path, "another authority")
    with pytest.raises(TlsError, match=r"expected a valid certificate of the authority in ca-cert.pem, found: "):
        server_tls(CONFIG, tmp_path)


def test_revoked_certificates_are_looked_at(tmp_path: Path) -> None:
    make_directory(tmp_path)
    revoke(tmp_path, "client")
    assert server_tls(CONFIG, tmp_path).context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ((), ""),
        (
            ((("countryName", "GB"),), (("organizationName", "Example, Inc."),), (("commonName", "a.example"),)),
            "CN=a.example,O=Example\\, Inc.,C=GB",
        ),
        (((("commonName", " #a "), ("userId", "7")),), "CN=\\ #a\\ +UID=7"),
        (((("1.2.3", "x"),),), "1.2.3=x"),
    ],
)
def test_distinguished_names(subject: tuple[tuple[tuple[str, str], ...], ...], text: str) -> None:
    assert distinguished_name(subject) == text


def test_nobody_has_no_name() -> None:
    assert identity_of(None) is None
    assert identity_of({}) is None
