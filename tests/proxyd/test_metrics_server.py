"""The metrics port: answers, and clients that do not ask, do not read, or are too many."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from proxyd import metrics_server
from proxyd.endpoint import Address
from proxyd.metrics import Metrics
from proxyd.metrics_server import LAST_CLIENTS_S, MAX_CLIENTS, MAX_THREADS, MetricsServer

SCRAPE = b"GET /metrics HTTP/1.0\r\n\r\n"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def server(metrics: Metrics) -> Iterator[MetricsServer]:
    server = MetricsServer(metrics, Address("127.0.0.1", 0))
    yield server
    server.close()


def connected(server: MetricsServer) -> socket.socket:
    return socket.create_connection((server.address.host, server.address.port), timeout=10)


def to_the_end(client: socket.socket) -> bytes:
    data = b""
    while chunk := client.recv(1 << 16):
        data += chunk
    return data


def threads() -> int:
    return sum(thread.name == "metrics" for thread in threading.enumerate())


def wait_until_served(server: MetricsServer, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(server._server._clients) != count:
        assert time.monotonic() < deadline, f"{count} clients expected, found {len(server._server._clients)}"
        time.sleep(0.001)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_server_answers_until_it_is_closed(metrics: Metrics, host: str) -> None:
    server = MetricsServer(metrics, Address(host, 0))
    try:
        assert server.address.port != 0
        with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10) as answer:
            assert b"proxyd_build_info" in answer.read()
    finally:
        server.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10)


def test_a_taken_address_is_an_oserror(metrics: Metrics) -> None:
    server = MetricsServer(metrics, Address("127.0.0.1", 0))
    try:
        with pytest.raises(OSError, match="in use"):
            MetricsServer(metrics, server.address)
    finally:
        server.close()


def test_those_that_say_nothing_make_room(server: MetricsServer) -> None:
    silent = [connected(server) for _ in range(3 * MAX_CLIENTS)]
    with closing(connected(server)) as scraper:
        scraper.sendall(SCRAPE)
        assert b"proxyd_build_info" in to_the_end(scraper)
    for one in silent[: 2 * MAX_CLIENTS]:
        assert to_the_end(one) == b"", "the oldest had to go"
    assert threads() <= MAX_THREADS
    for one in silent:
        one.close()
    wait_until_served(server, 0)


def test_those_that_have_asked_make_no_room(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    begun = threading.Semaphore(0)
    answer = metrics_server.MetricsHandler.do_GET

    def slow(self: metrics_server.MetricsHandler) -> None:
        begun.release()
        go_on.wait(30)
        answer(self)

    monkeypatch.setattr(metrics_server.MetricsHandler, "do_GET", slow)
    scrapers = [connected(server) for _ in range(MAX_CLIENTS)]
    for one in scrapers:
        one.sendall(SCRAPE)
        assert begun.acquire(timeout=10)
    with closing(connected(server)) as late:
        assert to_the_end(late) == b""
    go_on.set()
    for one in scrapers:
        assert b"proxyd_build_info" in to_the_end(one)
        one.close()


def test_a_client_has_so_much_time_however_it_spends_it(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "CLIENT_TIME_S", 0.2)
    with closing(connected(server)) as slow:
        slow.sendall(b"G")
        slow.settimeout(10)
        assert slow.recv(1) == b""


def test_a_client_that_resets_is_nobody_s_business(server: MetricsServer, capfd: pytest.CaptureFixture[str]) -> None:
    client = connected(server)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.sendall(b"GET")
    client.close()
    with closing(connected(server)) as scraper:
        scraper.sendall(SCRAPE)
        assert to_the_end(scraper).startswith(b"HTTP/1.0 200")
    wait_until_served(server, 0)
    assert capfd.readouterr().err == ""


def test_a_system_without_threads_costs_a_scrape(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(metrics_server.threading.Thread, "start", none_left)
        with closing(connected(server)) as scraper:
            assert to_the_end(scraper) == b""
    with closing(connected(server)) as scraper:
        scraper.sendall(SCRAPE)
        assert to_the_end(scraper).startswith(b"HTTP/1.0 200")


def test_the_end_waits_for_clients_and_not_for_ever(metrics: Metrics) -> None:
    """In an upgrade the other process answers by then; a scrape that was accepted here must not fail."""
    server = MetricsServer(metrics, Address("127.0.0.1", 0))
    with connected(server) as late, connected(server) as silent:
        wait_until_served(server, 2)
        closing_it = threading.Thread(target=server.close)
        began = time.monotonic()
        closing_it.start()
        while server._server.fileno() >= 0:
            time.sleep(0.001)
        late.sendall(SCRAPE)
        assert b"proxyd_draining" in to_the_end(late)
        assert to_the_end(silent) == b""
        closing_it.join()
    assert LAST_CLIENTS_S <= time.monotonic() - began < 10


def test_the_end_is_at_once_when_nobody_is_there(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "LAST_CLIENTS_S", 3600)
    server = MetricsServer(metrics, Address("127.0.0.1", 0))
    with connected(server) as client:
        client.sendall(SCRAPE)
        assert to_the_end(client)
    server.close()
