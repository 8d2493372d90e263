"""What one line of a log means for the register that it names."""

from __future__ import annotations

import pytest

from formats.qemu_log import parse_line
from proxyd.cli.register_advice import NOTHING_KNOWN, advice
from proxyd.rewrite.knowledge_file import parse_knowledge

KNOWN = parse_knowledge(
    [
        (
            "known.toml",
            b"""
[[entry]]
registers = ["FW_PSCI_VERSION"]
listed = [{}]
evidence = "seen"
[[entry.case]]
action = "destination"
verdict = "lossy"
reason = "calls vanish"
evidence = "seen"
[[entry.case]]
action = "absent"
when = "not listed(PMMIR_EL1)"
value = "0x10001"
verdict = "neutral"
reason = "it was so"
evidence = "seen"
[[entry.case]]
action = "absent"
verdict = "lossy"
reason = "nobody knows"
evidence = "seen"
[[entry]]
registers = ["ID_AA64MMFR2_EL1"]
listed = [{}]
evidence = "seen"
[[entry.case]]
action = "destination"
field = "NV"
when = "not listed(HCR_EL2)"
verdict = "neutral"
reason = "it has no EL2"
evidence = "seen"
[[entry.case]]
action = "destination"
field = "CCIDX"
verdict = "unknown"
reason = "it is hidden"
evidence = "seen"
[[entry]]
registers = ["PMMIR_EL1"]
listed = [{}]
evidence = "seen"
[[entry.case]]
action = "remove"
verdict = "proven"
reason = "it is zero"
evidence = "seen"
[[entry]]
registers = ["SCTLR2_EL1"]
listed = [{}]
evidence = "seen"
enabled_by = { field = "ID_AA64MMFR3_EL1.SCTLRX", since = "6.17" }
[[entry]]
registers = ["ID_AA64MMFR3_EL1"]
listed = [{}]
evidence = "seen"
[[entry.case]]
action = "raise"
field = "SCTLRX"
verdict = "neutral"
reason = "the register holds 0"
evidence = "seen"
""",
        )
    ]
)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "Could not set register fw reg 0 to 10003 (is 10001)",
            (
                ("sent", "0x10003, the destination has 0x10001 (MINOR 3, here 1)"),
                ("proxyd", "lossy: sends the destination's value, if allowed by name: calls vanish"),
            ),
        ),
        (
            "Could not set register op0:3 op1:0 crn:0 crm:7 op2:2 to 220011100001011 (is 220011102001011)",
            (
                ("sent", "0x220011100001011, the destination has 0x220011102001011 (NV 0, here 2)"),
                ("proxyd", "NV: neutral if not listed(HCR_EL2): sends the destination's value: it has no EL2"),
            ),
        ),
        (
            "Could not set register op0:3 op1:0 crn:0 crm:7 op2:2 to 1",
            (
                ("sent", "0x1"),
                ("proxyd", "NV: neutral if not listed(HCR_EL2): sends the destination's value: it has no EL2"),
                ("proxyd", "CCIDX: unknown: refuses the stream, and nobody can allow it: it is hidden"),
            ),
        ),
        (
            "Could not set register fw reg 1 to 2 (is 1)",
            (("sent", "0x2, the destination has 0x1"), ("proxyd", NOTHING_KNOWN)),
        ),
        (
            "system register op0:3 op1:0 crn:9 crm:14 op2:6 in the incoming stream but unknown on the destination",
            (("proxyd", "proven: removes it: it is zero"),),
        ),
        (
            "Could not set register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM",
            (
                ("hidden", "by Linux 6.17 and newer while ID_AA64MMFR3_EL1.SCTLRX is 0"),
                ("proxyd", "SCTLRX: neutral: keeps the field on: the register holds 0"),
            ),
        ),
        (
            "Could not set register op0:3 op1:0 crn:9 crm:14 op2:6: unknown to KVM",
            (("proxyd", "it is not known which ID register's field hides it: proxyd cannot foresee this"),),
        ),
        (
            "fw reg 0 expected by the destination but not in the incoming stream: skip it",
            (
                ("proxyd", "neutral if not listed(PMMIR_EL1): adds it as 0x10001: it was so"),
                ("proxyd", "lossy: leaves the destination's own: nobody knows"),
            ),
        ),
        ("fw reg 1 expected by the destination but not in the incoming stream: skip it", ()),
        ("Could not set register fw reg 0: Device or resource busy", ()),
        ("Invalid value 258 expecting positive value <= 257", ()),
    ],
)
def test_advice(line: str, told: tuple[tuple[str, str], ...]) -> None:
    fact = parse_line(line)
    assert fact is not None
    assert advice(fact, KNOWN) == told
