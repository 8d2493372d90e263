"""A migration over TLS through proxyd and haproxy, in turns: the CPU of the proxy for each GB, and throughput."""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.bench import load, machine, proxies
from tests.certificates import make_directory

YARDSTICK = "haproxy"
LEGS = {"TLS to TLS": (True, True), "TLS to plain": (True, False), "plain to TLS": (False, True)}


def haproxy(pki: Path, *, source: bool, destination: bool) -> proxies.Command:
    """TCP mode, one thread, TLS where it is asked for."""

    def command(directory: Path, listen: int, towards: int) -> list[str]:
        both = directory / "both.pem"
        both.write_bytes((pki / "server-cert.pem").read_bytes() + (pki / "server-key.pem").read_bytes())
        bind = f" ssl crt {both} ca-file {pki}/ca-cert.pem verify required" if source else ""
        server = f" ssl verify required ca-file {pki}/ca-cert.pem verifyhost localhost" if destination else ""
        config = directory / "haproxy.cfg"
        config.write_text(
            # Its buffers are one TLS record; larger ones cost it less per byte.
            "global\n nbthread 1\n tune.bufsize 262144\n"
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n"
            f"frontend in\n bind 127.0.0.1:{listen}{bind}\n default_backend out\n"
            f"backend out\n server destination 127.0.0.1:{towards}{server}\n"
        )
        return [machine.program("haproxy"), "-db", "-q", "-f", str(config)]

    return command


def proxyd(pki: Path, *, source: bool, destination: bool) -> proxies.Command:
    """``proxyd serve`` with TLS where it is asked for."""

    def command(directory: Path, listen: int, towards: int) -> list[str]:
        arguments = proxies.proxyd()(directory, listen, towards)
        config = directory / "proxyd.toml"
        tls = ["[route.tls]"]
        tls += [f'source = "{pki}"'] if source else []
        tls += [f'destination = "{pki}"', 'hostname = "localhost"'] if destination else []
        config.write_text(config.read_text() + "\n".join(tls) + "\n")
        return arguments

    return command


def run(rounds: int, size: int) -> dict[str, Any]:
    """Per pair of legs and proxy: GB/s and CPU seconds per GB, medians over the rounds."""
    stream = load.stream(size)
    passes: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch, load.loopback_listener() as listener:
        pki = make_directory(Path(scratch) / "pki")
        for _ in range(rounds):
            for legs, (source, destination) in LEGS.items():
                for name, make in (("haproxy", haproxy), ("proxyd", proxyd)):
                    command = make(pki, source=source, destination=destination)
                    taken = one_pass(command, Path(scratch), listener, stream, pki, source, destination)
                    passes[legs, name].append(taken)
    return {
        legs: {
            name: {
                "gb_per_s": statistics.median(speed for speed, _ in passes[legs, name]),
                "cpu_s_per_gb": statistics.median(cpu for _, cpu in passes[legs, name]),
                "cpu_to_haproxy": statistics.median(
                    this[1] / that[1] for this, that in zip(passes[legs, name], passes[legs, YARDSTICK], strict=True)
                ),
            }
            for name in ("haproxy", "proxyd")
        }
        for legs in LEGS
    }


def one_pass(
    command: proxies.Command,
    scratch: Path,
    listener: Any,
    stream: load.Stream,
    pki: Path,
    source_tls: bool,
    destination_tls: bool,
) -> tuple[float, float]:
    """(GB/s, CPU seconds of the proxy per GB) of one migration."""
    gigabytes = stream.bytes / 1e9
    port = listener.getsockname()[1]
    with (
        proxies.running(command, scratch, port) as proxy,
        load.destination(listener, stream.bytes, pki=str(pki) if destination_tls else None) as destination,
    ):
        assert proxy is not None
        before = machine.cpu_seconds(proxy.pid)
        with load.source(proxy.port, stream, pki=str(pki) if source_tls else None) as source:
            arrival = destination.result()
            after = machine.cpu_seconds(proxy.pid)
            assert arrival.bytes == stream.bytes, (arrival.bytes, stream.bytes)
            destination.tell("say SHUT(0)")
            source.result()
            assert source.result() == load.SHUT_0
    return gigabytes / (arrival.last - arrival.first), (after - before) / gigabytes
