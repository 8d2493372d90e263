"""proxyd as a service of a real systemd, with the units as they are shipped."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.rehearsal_protocol import Failed, MessageReader, Prepare, encode
from tests.certificates import make_certificate, make_directory
from tests.systemd.peers import HEAD, LARGE, WIRE, Peers, has_failed, peers
from tests.systemd.rig import CONFIG, SECONDS, Rig, rig


def test_it_starts_and_tells_what_it_serves(service: Peers) -> None:
    assert service.rig.systemctl("is-active", "proxyd") == "active\n"
    assert service.rig.show("StatusText") == "serving 1 route"
    assert f"route lab: 127.0.0.1:{service.port} -> " in service.rig.proxyd("status")
    service.migrate()


def test_it_has_a_user_of_its_own_and_no_capability(service: Peers) -> None:
    status = service.rig.status(service.rig.show("MainPID"))
    (uid,) = set(status["Uid"].split())
    assert 61184 <= int(uid) <= 65519, "a user of DynamicUser="
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2", "a filter"


def test_guest_memory_is_not_for_others(service: Peers) -> None:
    """No core dumps, and not even another process of the same user may read it."""
    rig, pid = service.rig, service.rig.show("MainPID")
    limits = rig.path(f"/proc/{pid}/limits").read_text()
    assert "Max core file size        0                    0 " in limits
    uid = rig.status(pid)["Uid"].split()[0]
    as_that_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    said = rig.try_run(*as_that_user, "head", "--bytes=1", f"/proc/{pid}/maps")
    assert (said.status, "Permission denied" in said.output) == (1, True)
    # Of a process of that user that does not hide itself, it can be read.
    assert rig.run(*as_that_user, "head", "--bytes=1", "/proc/self/maps") != ""


def test_a_reload(service: Peers) -> None:
    service.configure(limits="connections = 7")
    service.rig.systemctl("reload", "proxyd")
    assert service.rig.show("StatusText") == "serving 1 route"
    assert "reloaded" in service.rig.journal("proxyd").splitlines()
    service.migrate()


def test_a_refused_reload_says_why_and_changes_nothing(service: Peers) -> None:
    service.configure(limits="connexions = 7")
    service.rig.systemctl("reload", "proxyd")
    rig = service.rig
    rig.wait_until(lambda: "the last reload was refused: " in rig.show("StatusText"), "refusal")
    assert "connexions" in rig.show("StatusText")
    assert rig.systemctl("is-active", "proxyd") == "active\n"
    service.migrate()


def test_a_stop_waits_for_a_migration(service: Peers) -> None:
    source, destination = service.begin()
    rig = service.rig
    rig.systemctl("stop", "--no-block", "proxyd")
    rig.wait_until(lambda: "draining: 1 sessions" in rig.show("StatusText"), "drain")
    assert rig.show("ActiveState") == "deactivating"
    source.sendall(WIRE[len(HEAD) :])
    service.finish(source, destination, WIRE[len(HEAD) :])
    rig.wait_until(lambda: rig.show("ActiveState") == "inactive", "end of the service")
    assert rig.show("Result") == "success"
    assert rig.show("ExecMainStatus") == "0"


def test_a_restart_before_the_commit_point_leaves_the_guest_at_its_source(systemd: Rig) -> None:
    with peers(systemd, limits="drain_time_s = 0.1") as service:
        source, destination = service.begin()
        service.rig.systemctl("restart", "proxyd")
        assert has_failed(source)
        assert has_failed(destination)
        service.migrate()


def test_a_restart_after_the_commit_point_waits_for_the_verdict(systemd: Rig) -> None:
    with peers(systemd, limits="drain_time_s = 0.1") as service:
        source, destination, thread = service.commit()
        rig = service.rig
        rig.systemctl("restart", "--no-block", "proxyd")
        rig.wait_until(lambda: "are waited for" in rig.journal("proxyd"), "end of its patience")
        service.finish(source, destination, LARGE)
        thread.join()
        rig.wait_until(lambda: rig.show("ActiveState") == "active", "restart")
        service.migrate()


def test_wrong_configuration_is_not_tried_again(systemd: Rig) -> None:
    systemd.write(CONFIG, "[metrics]\nlisen = 1\n")
    assert systemd.try_run("systemctl", "start", "proxyd").status == 1
    assert (systemd.show("ActiveState"), systemd.show("NRestarts")) == ("failed", "0")
    systemd.systemctl("reset-failed", "proxyd")


# Secrets.


@pytest.fixture(scope="module")
def with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Path]]:
    """A systemd that gives proxyd the keys of a directory that only root can read."""
    pki = make_directory(tmp_path_factory.mktemp("pki"))
    make_certificate(pki, "server", host="localhost")
    with rig({"proxyd.service": "[Service]\nLoadCredential=tls:/etc/pki/qemu\n"}) as one:
        for file in pki.glob("*.pem"):
            one.write(f"/etc/pki/qemu/{file.name}", file.read_text(), mode=0o600)
        one.path("/etc/pki/qemu").chmod(0o700)
        yield one, pki


def test_keys_that_only_root_can_read_are_credentials(with_keys: tuple[Rig, Path]) -> None:
    one, pki = with_keys
    tls = ssl.create_default_context(cafile=pki / "ca-cert.pem")
    tls.load_cert_chain(pki / "client-cert.pem", pki / "client-key.pem")
    with peers(one, route='[route.tls]\nsource = "credentials:tls"\n') as service:
        service.migrate(tls)
        # They are there for a reload and for the process that comes with an upgrade as well.
        one.systemctl("reload", "proxyd")
        one.proxyd("upgrade")
        service.migrate(tls)
        assert "refused" not in one.journal("proxyd")


def test_without_credentials_it_cannot_read_them(with_keys: tuple[Rig, Path]) -> None:
    one, _ = with_keys
    service = Peers(one)
    service.configure(route='[route.tls]\nsource = "/etc/pki/qemu"\n')
    assert one.try_run("systemctl", "start", "proxyd").status == 1
    assert "server-cert.pem: cannot be read: Permission denied" in one.journal("proxyd")
    service.close()
    one.systemctl("reset-failed", "proxyd")


# The rehearsal service.


def test_a_rehearsal_service_for_each_connection(systemd: Rig) -> None:
    """It starts, with its sandbox, says that there is no KVM here, and ends with its connection."""
    systemd.systemctl("start", "proxyd-rehearse.socket")
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(SECONDS)
            asking.connect(str(systemd.path("/run/proxyd/rehearse.sock")))
            asking.sendall(encode(Prepare()))
            (failed,) = MessageReader().feed(asking.recv(1 << 16))
            assert isinstance(failed, Failed)
            (unit,) = instances(systemd)
            status = systemd.status(systemd.show("MainPID", unit))
            assert (status["CapEff"], status["NoNewPrivs"]) == ("0" * 16, "1")
            assert status["Uid"].split()[0] != "0"
        systemd.wait_until(lambda: instances(systemd) == [], "end of the process")
    systemd.systemctl("stop", "proxyd-rehearse.socket")


def instances(systemd: Rig) -> list[str]:
    listed = systemd.systemctl("list-units", "--plain", "--no-legend", "proxyd-rehearse@*")
    return [line.split()[0] for line in listed.splitlines()]
