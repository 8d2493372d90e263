"""Pairs of QEMU and CPU between which a guest does not move by itself, and the profile that lets it.

Found by experiment with TCG. Its loader differs from KVM's in two ways that shape the profiles: a register of the
stream must read back exactly the value that was written (so what the destination has fixed must be ``set``), and
a register that the stream lacks is written as 0 (so what is fixed to another value must be added).
"""

from dataclasses import dataclass
from pathlib import Path

from tests.qemu.versions import QEMU_7_2, QEMU_10_0, QEMU_11_1, Version

PROFILES = Path(__file__).parent / "profiles"

TOO_MANY = r"Invalid value \d+ expecting positive value <= \d+\n.*Failed to load cpu:cpreg_vmstate_array_len"
"""The source has more registers than the destination (QEMU before 11.1)."""

UNKNOWN = r"error while loading state for instance 0x0 of device 'cpu'"
"""The count passes; a register does not. QEMU does not say which."""

UNKNOWN_BY_NAME = r"system register 0x[0-9a-f]+ in the incoming stream but unknown on the destination"
"""QEMU 11.1 tolerates some registers by name and says which others it refuses, whatever the count."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One move that fails without proxyd."""

    name: str
    source: Version
    destination: Version
    machine: str
    source_cpu: str
    destination_cpu: str
    direct_error: str
    """What the destination prints without proxyd, a regular expression."""
    profile: str
    identity: frozenset[str] = frozenset()
    """Identification registers that the guest sees changed after the move, since the profile sets them."""

    @property
    def profile_path(self) -> Path:
        """The profile that makes the pair work."""
        return PROFILES / self.profile


PMU_CPUS = ("neoverse-n1", "neoverse-n1,pmu=off")
PMU_CHANGES = frozenset({"ID_AA64DFR0_EL1"})
SVE_CPUS = ("max,pauth=off,sme=off", "max,sve=off,sme=off")
SVE_CHANGES = frozenset({"ID_AA64PFR0_EL1", "ID_AA64ISAR1_EL1"})
A57_CPUS = ("cortex-a57", "cortex-a57")

PAIRS = [
    # The same CPU model, without its PMU at the destination: two registers fewer.
    Pair("7.2-pmu", QEMU_7_2, QEMU_7_2, "virt-7.2", *PMU_CPUS, TOO_MANY, "without-pmu.toml", PMU_CHANGES),
    Pair("10.0-pmu", QEMU_10_0, QEMU_10_0, "virt-10.0", *PMU_CPUS, TOO_MANY, "without-pmu.toml", PMU_CHANGES),
    Pair("11.1-pmu", QEMU_11_1, QEMU_11_1, "virt-11.1", *PMU_CPUS, UNKNOWN_BY_NAME, "without-pmu.toml", PMU_CHANGES),
    # SVE only here, pointer authentication only there: three registers against ten, so the count passes.
    Pair("7.2-sve", QEMU_7_2, QEMU_7_2, "virt-7.2", *SVE_CPUS, UNKNOWN, "sve-to-pauth-7.2.toml", SVE_CHANGES),
    Pair("10.0-sve", QEMU_10_0, QEMU_10_0, "virt-10.0", *SVE_CPUS, UNKNOWN, "sve-to-pauth-10.0.toml", SVE_CHANGES),
    # The same CPU model under two versions: 258 registers in 7.2, 275 in 10.0, 274 in 11.1.
    Pair("7.2-to-10.0", QEMU_7_2, QEMU_10_0, "virt-7.2", *A57_CPUS, UNKNOWN, "a57-7.2-to-10.0.toml"),
    Pair("10.0-to-7.2", QEMU_10_0, QEMU_7_2, "virt-7.2", *A57_CPUS, TOO_MANY, "a57-10.0-to-7.2.toml"),
    Pair("7.2-to-11.1", QEMU_7_2, QEMU_11_1, "virt-7.2", *A57_CPUS, UNKNOWN_BY_NAME, "a57-7.2-to-11.1.toml"),
    Pair("10.0-to-11.1", QEMU_10_0, QEMU_11_1, "virt-10.0", *A57_CPUS, UNKNOWN_BY_NAME, "a57-10.0-to-11.1.toml"),
]

NO_WAY_BACK = [(QEMU_11_1, QEMU_10_0, "virt-10.0"), (QEMU_11_1, QEMU_7_2, "virt-7.2")]
"""What QEMU itself does not support under TCG, whatever the list of registers: 11.1 sends the subsection
``cpu/wfxt-timer`` of every CPU. 7.2 does not know it; 10.0 ends in an assertion unless the CPU has that timer, and of
``max``, the only one that has, 11.1 sends ``cpu/fpmr`` as well. Under KVM there is neither."""
