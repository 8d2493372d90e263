"""Certificates for tests, in the layout of QEMU's ``tls-creds-x509,dir=``: made by openssl(1), good for two days."""

from __future__ import annotations

import subprocess
from pathlib import Path

CLIENT = "CN=client.example,O=Test,C=GB"
"""The distinguished name in the client's certificate, as QEMU writes it."""

_EXTENSIONS = (
    "subjectAltName=DNS:localhost,DNS:{host},IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage={usage}\n"
)

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(directory: Path, *arguments: str, text: str = "") -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, input=text.encode())


def make_authority(directory: Path, name: str = "authority") -> None:
    """``ca-cert.pem`` and its key."""
    directory.mkdir(parents=True, exist_ok=True)
    subject = f"/C=GB/O=Test/CN={name}"
    made = ("-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", subject)
    _openssl(directory, "req", "-x509", *_KEY, "-days", "2", *made)


def make_certificate(directory: Path, side: str, *, host: str | None = None, days: int = 2) -> None:
    """``SIDE-cert.pem`` and ``SIDE-key.pem``, signed by the authority of *directory*; *days* below 0: expired."""
    host = host or f"{side}.example"
    subject = ("-subj", f"/C=GB/O=Test/CN={host}")
    _openssl(directory, "req", *_KEY, "-keyout", f"{side}-key.pem", "-out", f"{side}.csr", *subject)
    extensions = directory / f"{side}.ext"
    extensions.write_text(_EXTENSIONS.format(host=host, usage=f"{side}Auth"))
    signed = ("-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-extfile", extensions.name)
    _openssl(directory, "x509", "-req", "-in", f"{side}.csr", "-out", f"{side}-cert.pem", "-days", str(days), *signed)


def make_directory(directory: Path) -> Path:
    """Everything that both sides need; returns *directory*."""
    make_authority(directory)
    for side in ("server", "client"):
        make_certificate(directory, side)
    return directory


def revoke(directory: Path, side: str) -> None:
    """``ca-crl.pem`` with that side's certificate in it."""
    (directory / "index.txt").write_text("")
    (directory / "ca.cnf").write_text(
        "[ca]\ndefault_ca=a\n[a]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n"
        "certificate=ca-cert.pem\nprivate_key=ca-key.pem\n"
    )
    _openssl(directory, "ca", "-config", "ca.cnf", "-revoke", f"{side}-cert.pem")
    _openssl(directory, "ca", "-config", "ca.cnf", "-gencrl", "-out", "ca-crl.pem")
