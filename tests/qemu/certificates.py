"""Certificates as QEMU's ``tls-creds-x509`` wants them: one directory with the files of a CA, a server and a client.

The file names are QEMU's (``crypto/tlscredsx509.c``: ``QCRYPTO_TLS_CREDS_X509_*``). Made with the ``openssl`` command,
so that nothing of the project takes part.
"""

import subprocess
from pathlib import Path

CLIENT_NAME = "CN=source.test,O=Test"
"""Distinguished name of the client's certificate."""

_CONFIG = """
[req]
distinguished_name = name
prompt = no
x509_extensions = extensions
[name]
O = Test
CN = {name}
[extensions]
{extensions}
"""

_AUTHORITY = "basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\nsubjectKeyIdentifier = hash"
_LEAF = (
    "basicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\nextendedKeyUsage = {usage}\n"
    "subjectAltName = {names}\nsubjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid"
)


def make(directory: Path, names: str = "DNS:localhost,IP:127.0.0.1,IP:::1") -> Path:
    """Fill *directory* (made if need be) and return it; the server is called *names* (as in ``subjectAltName``)."""
    directory.mkdir(parents=True, exist_ok=True)
    _certificate(directory, "ca", "authority.test", _AUTHORITY)
    signed = ("-CA", str(directory / "ca-cert.pem"), "-CAkey", str(directory / "ca-key.pem"))
    _certificate(directory, "server", "server.test", _LEAF.format(usage="serverAuth", names=names), *signed)
    client = _LEAF.format(usage="clientAuth", names="DNS:source.test")
    _certificate(directory, "client", "source.test", client, *signed)
    return directory


def _certificate(directory: Path, stem: str, name: str, extensions: str, *signed: str) -> None:
    config = directory / f"{stem}.cnf"
    config.write_text(_CONFIG.format(name=name, extensions=extensions))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-config", str(config), "-days", "2", *signed),
            *("-keyout", str(directory / f"{stem}-key.pem"), "-out", str(directory / f"{stem}-cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
