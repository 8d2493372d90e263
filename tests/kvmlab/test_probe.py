"""``proxyd probe``, installed on emulated hosts as on real ones, says what another program reads there by other code.

The other program is inside/reglist.c. A third witness is QEMU itself: the register lists of streams that were recorded
from its guests on the same kernels and CPUs.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from formats.arm64.id_fields import is_id_register
from formats.arm64.register_id import RegisterKind, id_of, kind_of
from proxyd.cli.subject import load_subject
from proxyd.rewrite.host import NOT_IN_LIST, HostDescription
from tests.kvmlab.arm64_python import COMMAND, proxyd_archive
from tests.kvmlab.host import Host, HostSpec
from tests.kvmlab.hostdesc import read_register_list
from tests.kvmlab.lab import open_lab, print_progress, set_up
from tests.recorded import STREAMS

pytestmark = pytest.mark.kvmlab

HOSTS = (HostSpec("6.1", "neoverse-n1"), HostSpec("6.12", "neoverse-v1"), HostSpec("7.3", "neoverse-n1"))
"""Without masks; with SVE and pointer authentication; the newest. Together they have every key of a description."""

COUNTER_HZ = 62_500_000
"""What QEMU emulates on these CPUs."""

QEMU = "10.0.13"
SECONDS = 300
RUNNING = {id_of("TIMER_CNT"), id_of("PTIMER_CNT")}
"""They count on between two readings."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one host said."""

    spec: HostSpec
    release: str
    probed: HostDescription
    listed: dict[str, Any]
    """By inside/reglist.c, with all features."""
    listed_without_pmu: dict[str, Any]
    on_nothing: str
    """What the command says where there is no /dev/kvm."""


async def _ask(host: Host) -> Asked:
    with_all = await read_register_list(host)
    without_pmu = await read_register_list(host, ("sve", "pauth"))
    await host.run(f"{COMMAND} probe --name lab --qemu {QEMU} -o /tmp/host.json", seconds=120)
    text = await host.run("cat /tmp/host.json")
    on_nothing = await host.run(f"mv /dev/kvm /dev/away; {COMMAND} probe; echo status $?", seconds=60)
    probed = HostDescription.parse(text.encode(), f"{host.release}.json")
    assert probed.to_json() == text.encode(), "written on arm64 as it is written here"
    return Asked(host.spec, host.release, probed, with_all, without_pmu, on_nothing)


async def _ask_all(progress: Callable[[str], None]) -> list[Asked]:
    images = set_up([spec.kernel for spec in HOSTS], progress)
    archive = proxyd_archive()
    answers: dict[HostSpec, Asked] = {}
    with trio.fail_after(SECONDS):
        async with open_lab(images, progress) as lab:

            async def ask(spec: HostSpec) -> None:
                answers[spec] = await _ask(await lab.boot(spec, [archive]))

            async with trio.open_nursery() as nursery:
                for spec in HOSTS:
                    nursery.start_soon(ask, spec)
    return [answers[spec] for spec in HOSTS]


@pytest.fixture(scope="module")
def answers(pytestconfig: pytest.Config) -> list[Asked]:
    """Boot each host once for all tests here, saying on the terminal what the lab does."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def progress(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print_progress(text)

    return trio.run(_ask_all, progress)


@pytest.fixture(params=range(len(HOSTS)), ids=[f"{spec.kernel}-{spec.cpu}" for spec in HOSTS])
def asked(request: pytest.FixtureRequest, answers: list[Asked]) -> Asked:
    """One host's answers."""
    return answers[request.param]


def _values(listed: dict[str, Any]) -> dict[int, int]:
    """What travels in QEMU's list, without what counts on by itself."""
    registers = {int(text, 16): value for text, value in listed["registers"].items()}
    return {
        register: int(value, 16)
        for register, value in registers.items()
        if kind_of(register) not in NOT_IN_LIST and register not in RUNNING
    }


def _still(description: HostDescription) -> dict[int, int]:
    return {register: value for register, value in description.registers.items() if register not in RUNNING}


def test_registers_and_values_are_what_another_program_reads(asked: Asked) -> None:
    assert _still(asked.probed) == _values(asked.listed)
    assert len(asked.probed.registers) > 240


def test_masks_are_what_another_program_reads(asked: Asked) -> None:
    masks = asked.listed["writable_masks"]
    assert (masks is None) == (asked.spec.kernel == "6.1")
    expected = {int(text, 16): int(mask, 16) for text, mask in masks.items()} if masks else None
    assert asked.probed.writable_masks == expected


def test_features_are_what_another_program_gets(asked: Asked) -> None:
    assert sorted(asked.probed.missing_features or {}) == sorted(asked.listed["missing_features"])
    assert set(asked.probed.features or ()) == {"psci", "pmu", "sve", "pauth"} - set(asked.listed["missing_features"])
    assert ("sve" in (asked.probed.features or ())) == (asked.spec.cpu == "neoverse-v1")


def test_the_list_of_a_smaller_set_of_features_is_what_another_program_reads(asked: Asked) -> None:
    without_pmu = asked.probed.with_features(set(asked.probed.features or ()) - {"pmu"})
    assert without_pmu is not None
    assert _still(without_pmu) == _values(asked.listed_without_pmu)
    assert len(without_pmu.registers) < len(asked.probed.registers)


def test_the_list_is_that_of_qemus_guests(asked: Asked) -> None:
    stream = STREAMS / f"{asked.spec.kernel}-{QEMU}-{asked.spec.cpu}-plain-smp1.bin.xz"
    (vcpu,) = load_subject(str(stream)).vcpus
    assert list(asked.probed.registers) == list(vcpu.registers)
    identity = [r for r in vcpu.registers if is_id_register(r) or kind_of(r) is RegisterKind.FIRMWARE]
    assert len(identity) > 30
    assert {r: asked.probed.registers[r] for r in identity} == {r: vcpu.registers[r] for r in identity}


def test_the_rest_of_the_description(asked: Asked) -> None:
    probed = asked.probed
    assert (probed.name, probed.kernel, probed.qemu) == ("lab", asked.release, QEMU)
    assert (probed.cpu or "").startswith(f"{asked.spec.cpu} r")
    assert probed.midrs == (probed.registers[id_of("MIDR_EL1")],)
    assert probed.gic == ("v3", "its")
    assert probed.counter_hz == pytest.approx(COUNTER_HZ, rel=1e-3)
    assert probed.sve_vector_bits == ((128, 256) if asked.spec.cpu == "neoverse-v1" else None)
    assert (probed.capabilities or {})["ARM_VM_IPA_SIZE"] >= 40
    assert json.loads(probed.to_json())["version"] == 1


def test_what_it_says_where_there_is_no_kvm(asked: Asked) -> None:
    assert asked.on_nothing.startswith("proxyd probe: /dev/kvm is not there: the kernel needs CONFIG_KVM")
    assert asked.on_nothing.endswith("status 4\n")
