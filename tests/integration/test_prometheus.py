"""A real Prometheus (Debian's package) scrapes a running daemon and evaluates the alerts of docs/metrics.md.

Where the package is missing these tests fail: it is the only one that says whether Prometheus takes what we serve.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import recorded
from tests.integration.offline import HOST, offline
from tests.proxyd.relay.stage import PONG_1, SHUT_0, SHUT_1

MANUAL = Path(__file__).parents[2] / "docs" / "metrics.md"
STREAM = "6.12-10.0.13-neoverse-n1-returnpath-smp1"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} expected on this machine: apt-get install --no-install-recommends prometheus")
    return found


def a_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        pytest.fail(f"no {what} within its time")
    time.sleep(0.05)


@dataclass
class Scene:
    """A daemon, its metrics page, and a Prometheus that scrapes it."""

    listen: int
    metrics: str
    prometheus: str
    destination: socket.socket

    def query(self, expression: str) -> list[dict[str, Any]]:
        url = f"{self.prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(url, timeout=10) as answer:
            result = json.load(answer)
        assert result["status"] == "success"
        return list(result["data"]["result"])

    def sample(self, expression: str, wanted: float) -> None:
        """Wait until the one sample of an expression has this value."""
        deadline = time.monotonic() + 60
        while True:
            found = self.query(expression)
            if found and float(found[0]["value"][1]) == wanted:
                return
            until(deadline, f"{expression} == {wanted}; last {found}")


def wait_for_http(url: str, deadline: float) -> None:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            until(deadline, f"answer from {url}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    prometheus = tool("prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    listen, metrics, web = a_port(), a_port(), a_port()
    with socket.create_server(("127.0.0.1", 0)) as destination:
        destination.settimeout(60)
        (directory / "host.json").write_bytes(HOST)
        (directory / "proxyd.toml").write_text(
            f'[metrics]\nlisten = "127.0.0.1:{metrics}"\n[[route]]\nname = "lab"\nlisten = "127.0.0.1:{listen}"\n'
            f'destination = "127.0.0.1:{destination.getsockname()[1]}"\ndestination_host = "host.json"\n'
        )
        (directory / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            "scrape_configs:\n"
            f"- {{job_name: proxyd, static_configs: [{{targets: ['127.0.0.1:{metrics}']}}]}}\n"
        )
        program = Path(sys.executable).with_name("proxyd")
        commands = [
            [str(program), "serve", "--config", str(directory / "proxyd.toml")],
            [
                prometheus,
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{web}",
                "--log.level=error",
            ],
        ]
        processes = [subprocess.Popen(command) for command in commands]
        try:
            deadline = time.monotonic() + 90
            wait_for_http(f"http://127.0.0.1:{metrics}/metrics", deadline)
            wait_for_http(f"http://127.0.0.1:{web}/-/ready", deadline)
            yield Scene(listen, f"http://127.0.0.1:{metrics}/metrics", f"http://127.0.0.1:{web}", destination)
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(60) for process in processes]
        assert codes[0] == 0


def test_promtool_finds_nothing_wrong_with_the_page(scene: Scene) -> None:
    with urllib.request.urlopen(scene.metrics, timeout=10) as answer:
        page = answer.read()
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=page, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_prometheus_scrapes_a_migration(scene: Scene) -> None:
    scene.sample('up{job="proxyd"}', 1)
    scene.sample('proxyd_migrations_total{route="lab",outcome="completed"}', 0)
    wire = recorded.load(STREAM)

    expected = offline(wire)

    def play_destination() -> None:
        connection, _ = scene.destination.accept()
        with connection:
            connection.sendall(PONG_1)
            got = b""
            while len(got) < len(expected):
                got += connection.recv(1 << 20)
            connection.sendall(SHUT_0 if got == expected else SHUT_1)

    thread = threading.Thread(target=play_destination)
    thread.start()
    with socket.create_connection(("127.0.0.1", scene.listen)) as source:
        source.settimeout(60)
        source.sendall(wire)
        verdict = b""
        while chunk := source.recv(100):
            verdict += chunk
    thread.join(60)
    assert verdict == PONG_1 + SHUT_0
    scene.sample('proxyd_migrations_total{route="lab",outcome="completed"}', 1)
    scene.sample("proxyd_active_sessions == 0 or sum(proxyd_active_sessions)", 0)
    assert float(scene.query('sum(proxyd_registers_total{action="remove",verdict="proven"})')[0]["value"][1]) >= 1
    assert float(scene.query("proxyd_hold_seconds_count")[0]["value"][1]) == 1


@pytest.mark.parametrize(
    "expression",
    [line for line in re.search(r"## Worth an alert\n\n```\n(.*?)```", MANUAL.read_text(), re.DOTALL)[1].splitlines()
     if line and not line.startswith("#")],
)  # fmt: skip
def test_each_alert_of_the_manual_is_an_expression_that_is_quiet(scene: Scene, expression: str) -> None:
    assert scene.query(expression) == []
    # And it names metrics that exist: a spelling mistake is quiet, too.
    for name in re.findall(r"proxyd_\w+", expression):
        scene.sample(f"count({name}) > bool 0", 1)
