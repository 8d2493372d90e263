"""New certificates without a restart: a reload brings them into force for connections that come then."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.certificates import make_certificate, make_directory
from tests.proxyd.relay.wires import a_door, a_tls_client, read_exactly
from tests.proxyd.test_daemon import route, running, text


async def test_new_certificates_come_with_a_reload(tmp_path: Path) -> None:
    pki = make_directory(tmp_path / "pki")
    path = tmp_path / "config.toml"
    content = text(route("lab", 1, more=f'[route.tls]\nsource = "{pki}"\n'))
    async with a_door() as door, running(path, content.replace('127.0.0.1:1"', f'127.0.0.1:{door.port}"')) as it:
        port = it.daemon.listening.routes["lab"].port
        before = await trio.to_thread.run_sync(a_tls_client, pki, port)
        make_certificate(pki, "server")
        still = await trio.to_thread.run_sync(a_tls_client, pki, port)
        assert still.getpeercert() == before.getpeercert()
        assert await it.daemon.reload()
        after = await trio.to_thread.run_sync(a_tls_client, pki, port)
        assert after.getpeercert() != before.getpeercert()
        # Who was connected before goes on with what it has.
        await trio.to_thread.run_sync(before.sendall, b"QEVM/")
        assert await read_exactly(await door.next(), 5) == b"QEVM/"
        (pki / "server-key.pem").write_text("nonsense")
        assert not await it.daemon.reload()
        assert "server-cert.pem: expected a certificate, and its key" in (it.daemon.last_reload_error or "")
        for end in (before, still, after):
            end.close()
