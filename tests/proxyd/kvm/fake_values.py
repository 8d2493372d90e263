"""Which values the fake kernel takes, and what it then has: as arch/arm64/kvm/sys_regs.c and hypercalls.c do.

Written from the kernel's code and from what kernels did in the lab, not from proxyd's own model of it
(:mod:`proxyd.rewrite.acceptance`), so that the two can disagree.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

# Registers that are the VM's, not a vCPU's: from Linux 6.7 on, one value for all.
FIRMWARE = ("FW_PSCI_VERSION", "FW_STD_BMAP", "FW_STD_HYP_BMAP", "FW_VENDOR_HYP_BMAP", "FW_VENDOR_HYP_BMAP_2")
PSCI_VERSIONS = (2, 0x10000, 0x10001, 0x10002, 0x10003)
IDENTITY = ("MIDR_EL1", "REVIDR_EL1", "AIDR_EL1")

HIDDEN_BY = {"SCTLR2_EL1": ("ID_AA64MMFR3_EL1", 4), "TCR2_EL1": ("ID_AA64MMFR3_EL1", 0)}
"""Register -> ID register and lowest bit of the field without which a kernel since 6.13 (6.17) does not show it."""

# SET and CLR of the same state; Linux 6.7 to 6.12 obeys them as a guest's writes.
PAIRS = {
    "PMCNTENCLR_EL0": "PMCNTENSET_EL0",
    "PMINTENCLR_EL1": "PMINTENSET_EL1",
    "PMOVSCLR_EL0": "PMOVSSET_EL0",
}


def judge(name: str, own: int, old: int, new: int, mask: int) -> int | None:
    """The errno of a write, or None: ``own`` is the host's value, ``old`` the vCPU's, ``mask`` what may be written."""
    if name.startswith("ID_") or name == "CTR_EL0":
        raised = any(new >> shift & 15 > own >> shift & 15 for shift in range(0, 64, 4))
        wrong = new != old and (raised or bool((new ^ own) & ~mask))
    elif name in IDENTITY:
        wrong = new != own
    elif name.startswith("FW_WORKAROUND"):
        wrong = new > own
    elif name == "FW_PSCI_VERSION":
        wrong = new > own or new not in PSCI_VERSIONS
    else:
        wrong = name in FIRMWARE and bool(new & ~own)
    return errno.EINVAL if wrong else None


def kept(name: str, own: int, new: int, *, masks: bool) -> int:
    """What a register has after a write that was taken: PMCR_EL0.N does not go up, on kernels that have masks."""
    if masks and name == "PMCR_EL0" and new >> 11 & 31 > own >> 11 & 31:
        return new & ~(31 << 11) | own & 31 << 11
    return new


def obeys(name: str, state: int, new: int) -> tuple[str, int] | None:
    """Linux 6.7 to 6.12: the SET register that a write changes, and its value then."""
    if name in PAIRS:
        return PAIRS[name], state & ~new
    if name in PAIRS.values():
        return name, state | new
    return None


def hidden(name: str, own: Callable[[str], int | None], value: Callable[[str], int | None]) -> bool:
    """Whether the vCPU's ID registers (``value``) hide a register that the host lists.

    A kernel that lists the register although its ``own`` field is off hides nothing (6.5 to 6.12).
    """
    if name not in HIDDEN_BY:
        return False
    register, shift = HIDDEN_BY[name]
    return bool((own(register) or 0) >> shift & 15) and not (value(register) or 0) >> shift & 15
