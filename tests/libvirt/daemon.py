"""``proxyd serve`` in the network of one of the hosts, with a configuration that the documentation shows."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.libvirt.host import SECONDS, Host
from tests.qemu.daemon import PROXYD

HEAD = '[metrics]\nlisten = "127.0.0.1:0"\n[log]\nformat = "text"\n'


@contextmanager
def proxyd(host: Host, directory: Path, routes: str) -> Iterator[Path]:
    """Run proxyd at *host* with *routes* in its configuration, ready when the context begins; gives its log."""
    config, log, notify = (directory / name for name in ("proxyd.toml", "proxyd.log", "notify"))
    config.write_text(HEAD + routes)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, log.open("w") as stderr:
        notify.unlink(missing_ok=True)
        manager.bind(str(notify))
        manager.settimeout(1)
        process = subprocess.Popen(
            [*host.network(), str(PROXYD), "serve", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "NOTIFY_SOCKET": str(notify)},
        )
        try:
            _ready(manager, process, log)
            yield log
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def _ready(manager: socket.socket, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(SECONDS):
        try:
            if b"READY=1" in manager.recv(4096).split(b"\n"):
                return
        except TimeoutError:
            if process.poll() is not None:
                break
    raise AssertionError(f"proxyd serve is not ready (exit status {process.returncode})\n{log.read_text()}")
