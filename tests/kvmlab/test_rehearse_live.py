"""Live migrations through `proxyd serve` with ``rehearse = true``, the service on the destination's own KVM.

One passes. The other goes by a profile that gives the guest a PSCI version which its destination does not have, with
nothing else known of the host: only its KVM can say so, and does in the held window.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from tests.kvmlab import pair
from tests.kvmlab.arm64_python import proxyd_archive
from tests.kvmlab.catalogue import catalogue
from tests.kvmlab.guest import GuestSpec
from tests.kvmlab.host import Host, HostSpec
from tests.kvmlab.hostdesc import host_description, read_register_list
from tests.kvmlab.lab import Lab, open_lab, print_progress, set_up
from tests.kvmlab.migration import Arrival
from tests.kvmlab.pair import Attempt
from tests.kvmlab.proxy import proxyd
from tests.kvmlab.rehearsal_service import forwarded_socket, start_service

pytestmark = pytest.mark.kvmlab

KERNELS = ("6.12", "7.3")
SECONDS = 400
_REMOVE = '[[rule]]\nkind = "remove"\nregister = "{}"\nreason = "the destination has none"'
_REMOVED = "\n".join(map(_REMOVE.format, ("TCR2_EL1", "PIRE0_EL1", "PIR_EL1")))
TAMPERING = f"""
name = "tampering"
{_REMOVED}
[[rule]]
kind = "set"
register = "FW_PSCI_VERSION"
value = "0x10009"
verdict = "neutral"
reason = "a mistake"
"""


@dataclass(frozen=True, slots=True)
class Moves:
    """What became of two guests."""

    rehearsed: Attempt
    tampered: Attempt


async def _attempt(
    lab: Lab, hosts: tuple[Host, Host], directory: Path, description: bytes, profile: str | None = None
) -> Attempt:
    # The PMU is left alone where the migration fails: Linux 6.12 loses its enables at the source then, whoever refuses.
    program = "checker" if profile is None else "plain-checker"
    source, destination = await pair._start(hosts, GuestSpec(catalogue().inner, 2, program=program))
    async with (
        forwarded_socket(hosts[1], directory / "rehearse.sock") as service,
        proxyd(directory, hosts[1].incoming_port, description, rehearsal=service, profile=profile) as proxy,
    ):
        attempt = await pair._attempt(lab, source, destination, proxy.port)
    await pair._stop(source, destination)
    return replace(attempt, proxy_log=tuple(proxy.log()))


async def _move(directory: Path, progress: Callable[[str], None]) -> Moves:
    images = set_up(KERNELS, progress)
    archive = proxyd_archive()
    booted: dict[str, Host] = {}
    with trio.fail_after(SECONDS):
        async with open_lab(images, progress) as lab:

            async def boot(kernel: str, *more: bytes) -> None:
                booted[kernel] = await lab.boot(HostSpec(kernel, catalogue().cpu), more)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(boot, KERNELS[0])
                nursery.start_soon(boot, KERNELS[1], archive)
            hosts = (booted[KERNELS[0]], booted[KERNELS[1]])
            await start_service(hosts[1])
            description = host_description(await read_register_list(hosts[1]), catalogue().inner)
            rehearsed = await _attempt(lab, hosts, directory, description)
            tampered = await _attempt(lab, hosts, directory, description, TAMPERING)
    return Moves(rehearsed, tampered)


@pytest.fixture(scope="module")
def moves(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Moves:
    """Run the lab once for all tests here, saying on the terminal what it does."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def progress(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print_progress(text)

    return trio.run(_move, tmp_path_factory.mktemp("proxyd"), progress)


def _messages(attempt: Attempt) -> list[str]:
    return [str(line["message"]) for line in attempt.proxy_log]


def test_a_rehearsed_migration_arrives_clean(moves: Moves) -> None:
    assert moves.rehearsed.runs_on == "destination"
    assert moves.rehearsed.outcome.source_status == "completed"
    assert moves.rehearsed.continues
    assert moves.rehearsed.clean, moves.rehearsed.changed
    assert any(text.startswith("rehearsed: loads faithfully on Linux 7.3") for text in _messages(moves.rehearsed))
    (released,) = [line for line in moves.rehearsed.proxy_log if line["message"] == "device state released"]
    assert 0 < released["rehearsal_s"] <= released["hold_s"]


def test_the_destinations_qemu_was_not_disturbed(moves: Moves) -> None:
    assert moves.rehearsed.outcome.complaints == ()


def test_what_kvm_refuses_stays_on_its_source(moves: Moves) -> None:
    assert moves.tampered.runs_on == "source"
    assert moves.tampered.outcome.source_running
    assert moves.tampered.continues
    assert moves.tampered.clean, moves.tampered.changed
    (last,) = [line for line in moves.tampered.proxy_log if line.get("outcome")]
    assert last["outcome"] == "refused"
    assert "FW_PSCI_VERSION (0x6030000000140000) = 0x10009" in last["message"]
    assert "the destination's KVM refuses 0x10009 with EINVAL" in last["message"]


def test_its_destination_never_had_device_state(moves: Moves) -> None:
    assert moves.tampered.outcome.arrival in (Arrival.EXITED, Arrival.UNTOUCHED)
    assert not any("failed to load" in line.lower() for line in moves.tampered.outcome.complaints)
