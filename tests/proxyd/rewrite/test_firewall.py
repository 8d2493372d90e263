"""The firewall's rules, one by one and on whole streams: told in one mode, refused in the other."""

from __future__ import annotations

import pytest

from formats.errors import SchemaMismatch
from formats.multifd import MultifdPacket, MultifdReader
from proxyd.rewrite.firewall import (
    MAX_FINDINGS,
    NO_FIREWALL,
    PACKED_BUFFER_BYTES,
    DeviceLimit,
    Firewall,
    FirewallMode,
    FirewallPolicy,
    FirewallRule,
)
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination
from proxyd.rewrite.policy import PostcopyPolicy, RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.rewriter import Phase, RewriteRefused, StreamRewriter
from tests import builders as b
from tests.proxyd.rewrite.test_known_bad import usb

ALERT, DENY = FirewallMode.ALERT, FirewallMode.DENY
ALL = ("ram", "arm_gicv3", "cpu", "cpu_common", "slirp")


def packet(data: bytes) -> MultifdPacket:
    (found,) = MultifdReader(b.PAGE).feed(data)
    return found


def found_in(packet_bytes: bytes, **policy: object) -> list[str]:
    firewall = Firewall(FirewallPolicy(ALERT, **policy))  # type: ignore[arg-type]
    firewall.packet(packet(packet_bytes))
    return [str(finding) for finding in firewall.findings]


def test_a_list_of_globs() -> None:
    policy = FirewallPolicy(ALERT, sections=("ram", "*/virtio-net", "cpu*"))
    names = ("ram", "0000:00:01.0/virtio-net", "cpu", "cpu_common", "ram2", "xram", "virtio-net", "ram\n")
    assert [policy.lists(name) for name in names] == [True, True, True, True, False, False, False, False]
    assert FirewallPolicy(ALERT).lists("anything")


def test_the_first_limit_that_matches_counts() -> None:
    devices = (DeviceLimit("*/virtio-net", 100, 1), DeviceLimit("*/virtio-*", 200, 2))
    policy = FirewallPolicy(ALERT, section_bytes=300, instances=3, devices=devices)
    assert policy.limit("a/virtio-net").bytes == 100
    assert policy.limit("a/virtio-blk").bytes == 200
    assert policy.limit("cpu") == DeviceLimit("*", 300, 3)


def test_sections_are_told_once() -> None:
    firewall = Firewall(FirewallPolicy(ALERT, sections=("ram",)))
    for _ in range(3):
        firewall.stream_section("ram")
        firewall.stream_section("dirty-bitmap")
        firewall.device_section("cpu", 10)
    assert [str(finding) for finding in firewall.findings] == [
        "section 'dirty-bitmap': a section of the route's list expected, found one that is not in it",
        "section 'cpu': a section of the route's list expected, found one that is not in it",
    ]


def test_sizes_and_numbers_of_devices() -> None:
    firewall = Firewall(FirewallPolicy(ALERT, devices=(DeviceLimit("cpu", 100, 2),)))
    for size in (100, 101, 1, 1):
        firewall.device_section("cpu", size)
        firewall.device_section("other", 1 << 20)
    assert [(finding.rule, str(finding)) for finding in firewall.findings] == [
        (FirewallRule.SIZE, "section 'cpu': at most 100 bytes expected (rule 'cpu'), found 101"),
        (
            FirewallRule.INSTANCES,
            "section 'cpu': at most 2 sections of this name expected (rule 'cpu'), found another",
        ),
    ]


@pytest.mark.parametrize(
    "honest",
    [
        b.multifd_packet(128),
        b.multifd_packet(100, zero=28),
        b.multifd_packet(0, zero=128),
        b.multifd_packet(0, flags=b.MULTIFD_SYNC, size=77),
        b.multifd_packet(0, flags=b.MULTIFD_SYNC, pages_alloc=0),
        b.multifd_packet(0, zero=3, flags=b.MULTIFD_ZSTD, size=0),
        b.multifd_packet(128, flags=b.MULTIFD_ZLIB, size=PACKED_BUFFER_BYTES),
        b.multifd_packet(128, flags=b.MULTIFD_ZSTD | b.MULTIFD_SYNC, size=1),
        b.multifd_packet(2, flags=b.MULTIFD_QPL, size=2 * (4 + b.PAGE)),
        b.multifd_device_state(b"vfio", 1 << 20),
    ],
)
def test_packets_that_qemu_sends(honest: bytes) -> None:
    assert found_in(honest) == []


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (b.multifd_packet(1, pages_alloc=129), "pages_alloc of at most 128 expected"),
        (b.multifd_packet(100, zero=29), "found 128, with 100 pages and 29 zero pages"),
        (b.multifd_packet(2, pages_alloc=1), "found 1, with 2 pages and 0 zero pages"),
        (b.multifd_packet(2, offsets=[0, 1]), "offsets of whole pages of 4096 bytes expected"),
        (b.multifd_packet(2, size=b.PAGE), "next_packet_size of 8192 expected for 2 pages (none), found 4096"),
        (
            b.multifd_packet(1, flags=b.MULTIFD_ZSTD, size=PACKED_BUFFER_BYTES + 1),
            "size of 1 to 1048576 expected for 1 pages (zstd), found 1048577: a destination would write behind its",
        ),
        (b.multifd_packet(1, flags=b.MULTIFD_ZLIB, size=0), "of 1 to 1048576 expected for 1 pages (zlib), found 0"),
        (b.multifd_packet(0, zero=1, flags=b.MULTIFD_ZLIB, size=9), "size of 0 expected for 0 pages (zlib), found 9:"),
        (b.multifd_packet(2, flags=b.MULTIFD_QPL, size=8), "of 9 to 8200 expected for 2 pages (qpl), found 8"),
    ],
)
def test_packets_that_no_qemu_sends(bad: bytes, text: str) -> None:
    (found,) = found_in(bad)
    assert found.startswith("multifd packet: ")
    assert text in found
    with pytest.raises(RewriteRefused, match=r"^firewall: multifd packet: "):
        Firewall(FirewallPolicy(DENY)).packet(packet(bad))


def test_device_state_over_multifd_is_held_to_the_list_and_the_limits() -> None:
    bad = b.multifd_device_state(b"0000:00:03.0/vfio", 1000)
    assert found_in(bad, sections=("ram",)) == [
        "section '0000:00:03.0/vfio': a section of the route's list expected, found one that is not in it"
    ]
    assert found_in(bad, section_bytes=999) == [
        "section '0000:00:03.0/vfio': at most 999 bytes expected (rule '*'), found 1000"
    ]


def test_what_is_no_packet() -> None:
    firewall = Firewall(FirewallPolicy(ALERT))
    firewall.no_packet(SchemaMismatch("magic expected", 5))
    assert firewall.findings[0].rule is FirewallRule.MULTIFD


def test_findings_are_bounded() -> None:
    firewall = Firewall(FirewallPolicy(ALERT, sections=("ram",)))
    for n in range(1000):
        firewall.stream_section(f"s{n}")
    assert len(firewall.findings) == MAX_FINDINGS


# On whole streams.


def rewriter(policy: FirewallPolicy, *, destination: bool = True, small: bool = False) -> StreamRewriter:
    profile = Profile.parse(b'[[rule]]\nkind="remove"\nregister="TCR2_EL1"\nreason="r"\n', "p.toml")
    limits = StreamLimits(device_state_bytes=100) if small else StreamLimits()
    rules = RewritePolicy(
        Destination(profile=profile) if destination else None,
        Knowledge(),
        postcopy=PostcopyPolicy.MAY_LOSE_GUEST,
        record=True,
        firewall=policy,
    )
    return StreamRewriter(rules, limits)


def feed_bytewise(rewrite: StreamRewriter, wire: bytes, out: bytearray) -> None:
    for n in range(len(wire)):
        out += output(rewrite, wire[n : n + 1])


def output(rewrite: StreamRewriter, wire: bytes) -> bytes:
    return b"".join(bytes(buffer) for buffer in rewrite.feed(wire))


HEAD = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH


@pytest.mark.parametrize("destination", [True, False])
def test_an_honest_stream_is_as_without_a_firewall(destination: bool) -> None:
    policy = FirewallPolicy(DENY, sections=ALL, section_bytes=1 << 16, instances=1)
    rewrite = rewriter(policy, destination=destination)
    assert output(rewrite, b.stream()) == output(rewriter(NO_FIREWALL, destination=destination), b.stream())
    assert (rewrite.phase, rewrite.findings, rewrite.denied) == (Phase.RELEASED, [], False)


def test_an_alert_changes_no_byte() -> None:
    parts = [*b.devices(2), usb(-1, 0)]
    rewrite = rewriter(FirewallPolicy(ALERT, sections=ALL[:-1], section_bytes=100, instances=1))
    assert output(rewrite, b.stream(parts=parts)) == output(rewriter(NO_FIREWALL), b.stream(parts=parts))
    assert {finding.rule for finding in rewrite.findings} == {
        FirewallRule.SECTION,
        FirewallRule.SIZE,
        FirewallRule.INSTANCES,
        FirewallRule.KNOWN_BAD,
    }
    assert not rewrite.denied


def test_a_section_that_is_not_listed_is_refused_before_anything_was_dialled() -> None:
    rewrite = rewriter(FirewallPolicy(DENY, sections=("cpu",)))
    out = bytearray()
    with pytest.raises(RewriteRefused, match=r"^firewall: section 'ram'"):
        feed_bytewise(rewrite, b.stream(), out)
    assert not out
    assert (rewrite.phase, rewrite.denied) == (Phase.PROLOGUE, True)


def test_device_state_is_refused_before_the_commit_point() -> None:
    for policy, parts in (
        (FirewallPolicy(DENY, sections=ALL[:-1]), b.devices()),
        (FirewallPolicy(DENY), [*b.devices(), usb(4097, 0)]),
    ):
        rewrite = rewriter(policy)
        with pytest.raises(RewriteRefused, match=r"^firewall: "):
            rewrite.feed(b.stream(parts=parts))
        assert (rewrite.phase, rewrite.denied) == (Phase.HOLDING, True)
        assert rewrite.evidence is not None, "the flight recorder keeps what was refused"
    unasked = rewriter(FirewallPolicy(DENY, known_bad=False))
    assert output(unasked, b.stream(parts=[*b.devices(), usb(4097, 0)]))


def test_early_sections_are_looked_at_where_they_come() -> None:
    early = b.Device(b"0000:00:03.0/virtio-mem-early", bytes(16))
    rewrite = rewriter(FirewallPolicy(DENY, sections=ALL))
    with pytest.raises(RewriteRefused, match="virtio-mem-early"):
        rewrite.feed(HEAD + early.wire(9) + b.ram())


def test_a_stream_that_cannot_be_looked_into() -> None:
    x86 = b.MAGIC + b.configuration(b"pc-i440fx-9.2", None) + b"anything"
    alert = rewriter(FirewallPolicy(ALERT))
    assert output(alert, x86) == x86
    assert alert.page_size is None
    assert [str(finding) for finding in alert.findings] == [
        "not looked into: all sections, because machine 'pc-i440fx-9.2' is not arm"
    ]
    deny = rewriter(FirewallPolicy(DENY))
    with pytest.raises(RewriteRefused, match="firewall: not looked into"):
        deny.feed(x86)


def test_values_that_cannot_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one decoder of the vmdesc takes, the other may not."""

    def fail(_tail: object) -> list[str]:
        raise SchemaMismatch("too deep")

    monkeypatch.setattr("proxyd.rewrite.firewall.find_known_bad", fail)
    rewrite = rewriter(FirewallPolicy(ALERT))
    assert output(rewrite, b.stream())
    assert [str(finding) for finding in rewrite.findings] == ["not looked into: the values of the devices: too deep"]


# Postcopy.


def postcopy(machine: bytes, content: bytes) -> bytes:
    return b.MAGIC + b.configuration(machine) + b.OPEN_RETURN_PATH + b.POSTCOPY_ADVISE + b.ram() + b.packaged(content)


@pytest.mark.parametrize("destination", [True, False])
def test_a_package_is_held_to_the_list(destination: bool) -> None:
    policy = FirewallPolicy(DENY, sections=ALL[:-1])
    content = b.package(b.devices())
    with pytest.raises(RewriteRefused, match=r"^firewall: section 'slirp'"):
        rewriter(policy, destination=destination).feed(postcopy(b"virt-10.2", content))
    honest = rewriter(FirewallPolicy(DENY, sections=ALL), destination=destination)
    assert output(honest, postcopy(b"virt-10.2", content))
    assert honest.findings == []


def test_a_source_that_cannot_take_its_guest_back_is_not_refused() -> None:
    wire = postcopy(b"virt-10.0", b.package(b.devices(), loaded_ping=False))
    rewrite = rewriter(FirewallPolicy(DENY, sections=ALL[:-1]))
    assert output(rewrite, wire) == wire
    assert rewrite.forced is not None
    assert "firewall: section 'slirp'" in rewrite.forced


def test_a_package_that_cannot_be_cut() -> None:
    wire = postcopy(b"virt-10.2", b"\x08\x00\x04\x00\x00" + b"no sections" + b"\x08\x00\x05\x00\x00")
    rewrite = rewriter(FirewallPolicy(ALERT), destination=False)
    assert output(rewrite, wire) == wire
    assert str(rewrite.findings[0]).startswith("not looked into: a postcopy package: ")


def test_a_package_that_is_too_large_to_hold() -> None:
    content = b.package(b.devices(), loaded_ping=False)
    alert = rewriter(FirewallPolicy(ALERT), destination=False, small=True)
    wire = postcopy(b"virt-10.2", content)
    assert output(alert, wire) == wire
    assert [str(finding) for finding in alert.findings] == [
        f"not looked into: a postcopy package of {len(content)} bytes"
    ]
    with pytest.raises(RewriteRefused, match="firewall: not looked into"):
        rewriter(FirewallPolicy(DENY), destination=False, small=True).feed(wire)
    lost = rewriter(FirewallPolicy(DENY), destination=False, small=True)
    wire = postcopy(b"virt-10.0", content)
    assert output(lost, wire) == wire
    assert "firewall: not looked into" in (lost.forced or "")
