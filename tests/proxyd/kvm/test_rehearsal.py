"""Rehearsals against a kernel that judges values as KVM does. What real kernels say: tests/kvmlab/test_rehearse.py."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of, name_of
from proxyd.kvm import abi
from proxyd.kvm.features import Feature
from proxyd.kvm.rehearsal import Stage, deduce_features, rehearse
from proxyd.kvm.system import CallRefused, KvmUnavailable
from proxyd.rewrite.plan import VcpuRegisters
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal
from tests.proxyd.kvm.fake_kernel import ALL, FakeKernel, Gic, real_host

TPIDR = id_of("TPIDR_EL0")
TIMER_CNT = id_of("TIMER_CNT")


IDLE_PMU = {"PMINTENSET_EL1": 0, "PMINTENCLR_EL1": 0, "PMOVSCLR_EL0": 0, "PMOVSSET_EL0": 0}


def kernel_of(version: str = "7.3", cpu: str = "neoverse-n1", **options: Any) -> FakeKernel:
    return FakeKernel(real_host(version, cpu), **options)


def guest(version: str = "7.3", cpu: str = "neoverse-n1", vcpus: int = 1, **put: int) -> list[VcpuRegisters]:
    """vCPUs as the host makes them, with other values by name."""
    registers = real_host(version, cpu).registers.edited(put={id_of(name): value for name, value in put.items()})
    return [VcpuRegisters(number, registers) for number in range(vcpus)]


def edited(vcpus: list[VcpuRegisters], number: int, **put: int) -> list[VcpuRegisters]:
    """The same with other values on one vCPU."""
    out = list(vcpus)
    out[number] = VcpuRegisters(number, out[number].registers.edited(put={id_of(n): v for n, v in put.items()}))
    return out


def rehearsed(kernel: FakeKernel, vcpus: list[VcpuRegisters], guests: list[VcpuRegisters] | None = None) -> Rehearsal:
    found = rehearse(kernel, kernel, vcpus, kernel="7.3.4", guests=guests)
    assert kernel.files == {}, "nothing stays open"
    return found


def told(rehearsal: Rehearsal) -> list[tuple[int, str, str]]:
    return [(finding.vcpu, name_of(finding.register), finding.kind.value) for finding in rehearsal.findings]


@pytest.mark.parametrize("cpu", ["neoverse-n1", "neoverse-v1", "max"])
@pytest.mark.parametrize("vcpus", [1, 3])
def test_a_guest_of_the_same_host_comes_back_whole(cpu: str, vcpus: int) -> None:
    found = rehearsed(kernel_of(cpu=cpu), guest(cpu=cpu, vcpus=vcpus, TPIDR_EL0=7))
    assert (found.findings, found.loads, found.faithful) == ((), True, True)
    assert (found.kernel, found.vcpus) == ("7.3.4", vcpus)
    assert found.seconds > 0


def test_features_are_what_the_registers_show() -> None:
    assert deduce_features([]) == (Feature.PSCI,)
    assert deduce_features(guest(cpu="neoverse-v1")) == (Feature.PSCI, Feature.PMU, Feature.SVE, Feature.PAUTH)
    assert deduce_features(guest()) == (Feature.PSCI, Feature.PMU)
    shown = CpregList({id_of("HCR_EL2"): 0, id_of("RGSR_EL1"): 0})
    assert deduce_features([VcpuRegisters(0, shown)]) == (Feature.PSCI, Feature.EL2, Feature.MTE)


def test_a_guest_without_a_pmu_gets_a_vcpu_without() -> None:
    registers = real_host("7.3", "neoverse-n1").registers
    without = CpregList(
        {
            r: v & ~0xF00 if name_of(r) == "ID_AA64DFR0_EL1" else v
            for r, v in registers.items()
            if name_of(r)[:2] != "PM"
        }
    )
    found = rehearsed(kernel_of(), [VcpuRegisters(0, without)])
    assert (found.features, found.findings) == (("psci",), ())


def test_a_feature_that_the_host_has_not_shows_as_registers_that_are_not_there() -> None:
    found = rehearsed(
        FakeKernel(real_host("7.3", "neoverse-v1"), capabilities=ALL | {170: 0}), guest(cpu="neoverse-v1")
    )
    assert found.features == ("psci", "pmu", "pauth")
    assert told(found) == [(0, "ID_AA64PFR0_EL1", "refused"), (0, "ZCR_EL1", "unknown")]
    assert not found.loads


@pytest.mark.parametrize(("devices", "number"), [((5, 7), 7), ((5,), 5), ((), None)])
def test_the_interrupt_controller_is_qemus(devices: tuple[int, ...], number: int | None) -> None:
    kernel = kernel_of(devices=devices)
    with Stage(kernel, [Feature.PSCI, Feature.PMU], 2) as stage:
        assert stage.controller == number
        gics = [file for file in kernel.files.values() if isinstance(file, Gic)]
        pmus = [file.pmu for file in kernel.files.values() if hasattr(file, "pmu")]
    if number is None:
        assert (gics, pmus) == ([], [[], []])
    else:
        assert [(gic.interrupts, gic.initialized) for gic in gics] == [(288, True)]
        assert pmus == [["irq", "init"], ["irq", "init"]]
    assert kernel.files == {}


def test_a_value_that_kvm_refuses_is_named_with_its_errno_and_the_rest_goes_on() -> None:
    found = rehearsed(kernel_of(), guest(FW_PSCI_VERSION=0x10009, TPIDR_EL0=5))
    psci = id_of("FW_PSCI_VERSION")
    assert found.findings == (Finding(0, psci, FindingKind.REFUSED, 0x10009, 0x10003, "EINVAL"),)
    assert not found.loads
    assert not found.faithful


def test_an_errno_without_a_name_is_a_number() -> None:
    kernel = kernel_of()
    take = kernel._set

    def refusing(vcpu: Any, argument: bytearray) -> int:
        if int.from_bytes(argument[:8], "little") == TPIDR and kernel.time < 0:
            raise OSError(9999, "?")
        return take(vcpu, argument)

    kernel._set = refusing  # type: ignore[method-assign]
    with Stage(kernel, [Feature.PSCI, Feature.PMU], 1) as stage:
        kernel.time = -(10**9)
        (finding,) = stage.perform(guest(), guest())
    assert (finding.register, finding.errno) == (TPIDR, "9999")


def test_registers_of_one_side_only() -> None:
    new = VcpuRegisters(0, guest()[0].registers.edited(remove=[id_of("PMMIR_EL1")], put={id_of("TCR2_EL1"): 1}))
    found = rehearsed(kernel_of(), [new])
    assert found.findings == (
        Finding(0, id_of("TCR2_EL1"), FindingKind.UNKNOWN, 1),
        Finding(0, id_of("PMMIR_EL1"), FindingKind.MISSING, None, 0),
    )
    assert not found.loads


def test_what_only_the_destination_has_does_not_stop_it() -> None:
    new = VcpuRegisters(0, guest()[0].registers.edited(remove=[id_of("PMMIR_EL1")]))
    found = rehearsed(kernel_of(), [new])
    assert told(found) == [(0, "PMMIR_EL1", "missing")]
    assert found.faithful


def test_a_register_that_an_id_register_hides_fails_though_the_stream_lacks_it() -> None:
    """max, 6.12 to 7.3: the field is off in the stream, and QEMU writes its own list."""
    mmfr3 = real_host("7.3", "max").registers[id_of("ID_AA64MMFR3_EL1")]
    stream = guest(cpu="max", ID_AA64MMFR3_EL1=mmfr3 & ~0xF0)
    stream = [VcpuRegisters(0, stream[0].registers.edited(remove=[id_of("SCTLR2_EL1")]))]
    found = rehearsed(kernel_of(cpu="max"), stream)
    assert told(found) == [(0, "SCTLR2_EL1", "refused")]
    assert (found.findings[0].errno, found.findings[0].found) == ("ENOENT", None)


def test_a_value_that_is_taken_and_changed() -> None:
    found = rehearsed(kernel_of(), guest(PMCR_EL0=0x1F << 11))
    assert told(found) == [(0, "PMCR_EL0", "changed")]
    assert (found.loads, found.faithful) == (True, False)


def test_the_pmu_of_linux_6_12_as_it_is_and_repaired() -> None:
    stream = guest("6.12", **IDLE_PMU, PMCNTENSET_EL0=0x80000001, PMCNTENCLR_EL0=0x80000001)
    kernel = kernel_of("6.12", obeys_pmu=True)
    assert told(rehearsed(kernel, stream)) == [
        (0, "PMCNTENSET_EL0", "changed"),
        (0, "PMCNTENCLR_EL0", "changed"),
        (0, "PMOVSCLR_EL0", "changed"),  # they keep what a fresh vCPU holds
        (0, "PMOVSSET_EL0", "changed"),
    ]
    repaired = edited(stream, 0, PMCNTENCLR_EL0=0x7FFFFFFE, PMOVSCLR_EL0=0xFFFFFFFF)
    assert told(rehearsed(kernel, repaired)) == [
        (0, "PMCNTENCLR_EL0", "changed"),
        (0, "PMOVSCLR_EL0", "changed"),
    ], "nobody says what the guest had"
    assert rehearsed(kernel, repaired, stream).findings == ()


def test_vcpus_that_disagree_about_what_is_the_vms() -> None:
    """The second vCPU's write is taken, and the first has its value."""
    isar0 = real_host("7.3", "neoverse-n1").registers[id_of("ID_AA64ISAR0_EL1")]
    found = rehearsed(kernel_of(), edited(guest(vcpus=2), 1, ID_AA64ISAR0_EL1=isar0 & ~0xF0))
    assert told(found) == [(0, "ID_AA64ISAR0_EL1", "changed")]


@pytest.mark.parametrize("drift", [0, 1, -1000])
def test_a_counter_counts(drift: int) -> None:
    vcpus = edited(guest(vcpus=2, TIMER_CNT=1 << 40), 1, TIMER_CNT=(1 << 40) + drift)
    assert rehearsed(kernel_of(), vcpus).findings == ()


def test_a_counter_that_is_elsewhere_is_a_loss() -> None:
    kernel = kernel_of()
    take = kernel._set

    def losing(vcpu: Any, argument: bytearray) -> int:
        return 0 if int.from_bytes(argument[:8], "little") == TIMER_CNT else take(vcpu, argument)

    kernel._set = losing  # type: ignore[method-assign]
    assert told(rehearsed(kernel, guest(TIMER_CNT=1 << 60))) == [(0, "TIMER_CNT", "changed")]


def test_a_timers_status_is_not_state() -> None:
    kernel = kernel_of()
    take = kernel._set

    def settling(vcpu: Any, argument: bytearray) -> int:
        done = take(vcpu, argument)
        ctl = id_of("TIMER_CTL")
        vcpu.registers[ctl] = bytes([vcpu.registers[ctl][0] | 4]) + bytes(7)
        return done

    kernel._set = settling  # type: ignore[method-assign]
    assert rehearsed(kernel, guest(TIMER_CTL=1)).findings == ()


def test_a_value_too_wide_for_its_register_is_not_kept() -> None:
    found = rehearsed(kernel_of(), guest(**{"DEMUX_CCSIDR[0]": 1 << 32 | 2}))
    assert told(found) == [(0, "DEMUX_CCSIDR[0]", "changed")]


def test_the_reset_clears_what_a_fresh_vcpu_holds_at_random() -> None:
    """As QEMU's reset does: it writes the list back, and Linux 6.12 obeys the CLR registers in it."""
    host = real_host("6.12", "neoverse-n1")
    kernel = kernel_of("6.12", obeys_pmu=True)
    stream = guest("6.12", **IDLE_PMU, PMCNTENSET_EL0=0, PMCNTENCLR_EL0=0)
    assert host.registers[id_of("PMCNTENSET_EL0")] != 0, "the host's values are those of a fresh vCPU"
    assert told(rehearsed(kernel, stream)) == [(0, "PMOVSCLR_EL0", "changed"), (0, "PMOVSSET_EL0", "changed")]


def _no_kvm(kernel: FakeKernel) -> None:
    def refused() -> int:
        raise FileNotFoundError(errno.ENOENT, "no such file")

    kernel.open_kvm = refused  # type: ignore[method-assign]


def _no_vcpu(kernel: FakeKernel) -> None:
    kernel.refuse[abi.KVM_ARM_VCPU_INIT] = errno.EINVAL


@pytest.mark.parametrize(("break_it", "error"), [(_no_kvm, KvmUnavailable), (_no_vcpu, CallRefused)])
def test_kvm_that_cannot_be_asked(break_it: Callable[[FakeKernel], None], error: type[Exception]) -> None:
    kernel = kernel_of()
    break_it(kernel)
    with pytest.raises(error):
        rehearse(kernel, kernel, guest(), kernel="7.3.4")
    assert kernel.files == {}


def test_a_register_that_cannot_be_read_is_an_error_and_no_finding() -> None:
    kernel = kernel_of()
    honest = kernel._get

    def failing(vcpu: Any, argument: bytearray) -> int:
        if int.from_bytes(argument[:8], "little") == TPIDR:
            raise OSError(errno.EIO, "broken")
        return honest(vcpu, argument)

    kernel._get = failing  # type: ignore[method-assign]
    with pytest.raises(CallRefused, match="EIO"):
        rehearse(kernel, kernel, guest(), kernel="7.3.4")
    assert kernel.files == {}
