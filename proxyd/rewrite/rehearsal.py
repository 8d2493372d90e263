"""What a rehearsal found: the destination's KVM was given the registers, and this is what it said. No I/O.

The rehearsal itself is :mod:`proxyd.kvm.rehearsal`, which needs /dev/kvm. What it found travels: to the daemon, which
has no right on that device, and into logs and reports. ``docs/host-description.md`` documents the JSON form.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Any, Final

import msgspec

from formats.arm64.register_id import describe, name_of
from proxyd.rewrite.plan import Refusal
from proxyd.rewrite.verdict import Verdict

JSON_VERSION: Final = 1


class FindingKind(StrEnum):
    """What became of one register."""

    REFUSED = "refused"  # KVM_SET_ONE_REG fails: QEMU's load fails with it
    UNKNOWN = "unknown"  # the destination's vCPU does not list it: QEMU's load fails, or loses it without a word
    CHANGED = "changed"  # taken without an error, and not there afterwards: a silent loss
    MISSING = "missing"  # the destination lists it and the stream does not: it keeps its own value


FAILURES: Final = frozenset({FindingKind.REFUSED, FindingKind.UNKNOWN})


class Finding(msgspec.Struct, frozen=True):
    """One register of one vCPU. ``wanted`` is the value sent, ``found`` what the vCPU has afterwards.

    ``found`` is None where the vCPU does not have the register, ``wanted`` where the stream does not. ``errno`` is the
    name of KVM's error for :attr:`FindingKind.REFUSED`, such as ``EINVAL``.
    """

    vcpu: int
    register: int
    kind: FindingKind
    wanted: int | None = None
    found: int | None = None
    errno: str | None = None

    def __str__(self) -> str:
        return f"vcpu {self.vcpu}: {describe(self.register)}: {self.reason}"

    @property
    def reason(self) -> str:
        """What happened, without saying where."""
        match self.kind:
            case FindingKind.REFUSED:
                return (
                    f"the destination's KVM refuses {_hex(self.wanted)} with {self.errno} (it has {_hex(self.found)})"
                )
            case FindingKind.UNKNOWN:
                return f"the destination's vCPU does not have it; the stream's value is {_hex(self.wanted)}"
            case FindingKind.CHANGED:
                return (
                    f"the destination's KVM takes {_hex(self.wanted)} without an error and then has {_hex(self.found)}"
                )
            case FindingKind.MISSING:
                return f"not in the stream: the destination keeps its own value, {_hex(self.found)}"

    def to_json_dict(self) -> dict[str, Any]:
        """Ids and values as hex strings, the name beside the id."""
        entry: dict[str, Any] = {
            "vcpu": self.vcpu,
            "register": f"{self.register:#x}",
            "name": name_of(self.register),
            "kind": self.kind.value,
        }
        for key, value in (("wanted", self.wanted), ("found", self.found)):
            if value is not None:
                entry[key] = f"{value:#x}"
        if self.errno is not None:
            entry["errno"] = self.errno
        return entry


class Rehearsal(msgspec.Struct, frozen=True):
    """All findings, and on what: ``features`` of the vCPUs, ``kernel`` as ``uname -r`` says, ``seconds`` that it took.

    The findings are in the order of vCPUs and registers.
    """

    findings: tuple[Finding, ...]
    features: tuple[str, ...]
    kernel: str
    vcpus: int
    seconds: float

    @property
    def loads(self) -> bool:
        """Whether QEMU's load succeeds there."""
        return not any(finding.kind in FAILURES for finding in self.findings)

    @property
    def faithful(self) -> bool:
        """Whether every vCPU then has what the stream says."""
        return self.loads and not any(finding.kind is FindingKind.CHANGED for finding in self.findings)

    def failures(self, allow: Collection[int] = ()) -> tuple[Finding, ...]:
        """What stands against the migration. ``allow`` holds the registers that may change; what KVM refuses, or does
        not have, no leave can mend."""
        return tuple(
            finding
            for finding in self.findings
            if finding.kind in FAILURES or (finding.kind is FindingKind.CHANGED and finding.register not in allow)
        )

    def refusals(self, allow: Collection[int] = ()) -> tuple[Refusal, ...]:
        """The failures, as a plan says such things."""
        return tuple(self._refusal(finding) for finding in self.failures(allow))

    def _refusal(self, finding: Finding) -> Refusal:
        lossy = finding.kind is FindingKind.CHANGED
        hint = f' (allow = ["{name_of(finding.register)}"] accepts that)' if lossy else ""
        return Refusal(
            finding.vcpu,
            finding.register,
            finding.wanted,
            finding.found,
            Verdict.LOSSY if lossy else Verdict.UNKNOWN,
            f"rehearsed on Linux {self.kernel}: {finding.reason}{hint}",
        )

    def summary(self) -> str:
        """One line for people."""
        counts = [
            f"{count} {kind.value}" for kind in FindingKind if (count := sum(f.kind is kind for f in self.findings))
        ]
        verdict = "loads faithfully" if self.faithful else "loads, with changes" if self.loads else "does not load"
        return f"{verdict} on Linux {self.kernel}" + (f" ({', '.join(counts)})" if counts else "")

    def to_json_dict(self) -> dict[str, Any]:
        """A JSON object with a version."""
        return {
            "version": JSON_VERSION,
            "loads": self.loads,
            "faithful": self.faithful,
            "kernel": self.kernel,
            "features": list(self.features),
            "vcpus": self.vcpus,
            "seconds": round(self.seconds, 6),
            "findings": [finding.to_json_dict() for finding in self.findings],
        }


def _hex(value: int | None) -> str:
    return "nothing" if value is None else f"{value:#x}"
