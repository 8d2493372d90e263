"""Whatever comes over a multifd channel: the same packets in any chunking, and no error but the documented ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from formats.errors import SchemaMismatch
from formats.multifd import MultifdPacket, MultifdReader
from proxyd.relay.inspection import Inspection
from proxyd.rewrite.firewall import MAX_FINDINGS, Finding, FirewallMode, FirewallPolicy
from proxyd.rewrite.refusal import RewriteRefused
from tests import builders as b

HEADER_BYTES = 320 + 8 * 128

numbers = st.one_of(st.integers(0, 200), st.integers(0, (1 << 32) - 1))


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """A packet with any numbers in it, and about as many bytes behind it as a small one would have."""
    if draw(st.booleans()):
        name = draw(st.binary(max_size=256))
        return b.multifd_device_state(name, draw(numbers)) + draw(st.binary(max_size=300))
    head = b.multifd_packet(
        draw(numbers),
        flags=draw(st.integers(0, 0x7F)),
        size=draw(numbers),
        zero=draw(numbers),
        pages_alloc=draw(numbers),
        offsets=draw(st.lists(st.integers(0, (1 << 64) - 1), max_size=3)),
    )
    return head + draw(st.binary(max_size=300))


channels = st.one_of(
    st.lists(packets(), max_size=4).map(b"".join), st.binary(max_size=3000), st.binary().map(lambda x: b.MAGIC + x)
)


def read(data: bytes, cuts: list[int]) -> tuple[list[MultifdPacket], str | None]:
    reader = MultifdReader(b.PAGE)
    found: list[MultifdPacket] = []
    position = 0
    try:
        for size in [*cuts, len(data)]:
            found.extend(reader.feed(data[position : position + size]))
            position += size
            assert 0 < reader.header_left <= HEADER_BYTES
            assert reader.payload_left >= 0
    except SchemaMismatch as error:
        return found, str(error)
    return found, None


@given(channels, st.lists(st.integers(0, 400), max_size=20))
def test_any_chunking_gives_the_same(data: bytes, cuts: list[int]) -> None:
    whole, error = read(data, [])
    pieces, other = read(data, cuts)
    assert (pieces, other) == (whole, error)


@given(channels, st.sampled_from((FirewallMode.ALERT, FirewallMode.DENY)), st.lists(st.integers(1, 400), max_size=20))
def test_an_inspection_refuses_or_lets_pass_and_says_no_more_than_it_may(
    data: bytes, mode: FirewallMode, cuts: list[int]
) -> None:
    found: list[Finding] = []
    inspection = Inspection(FirewallPolicy(mode), b.PAGE, found.append)
    position, refused = 0, None
    try:
        for size in [*cuts, len(data)]:
            inspection.look(data[position : position + size])
            position += size
            assert inspection.unseen >= 0
            assert inspection.unseen or inspection.wanted
    except RewriteRefused as error:
        refused = str(error)
    if mode is FirewallMode.DENY:
        assert [f"firewall: {finding}" for finding in found] == ([] if refused is None else [refused])
    else:
        assert refused is None
        assert len(found) <= MAX_FINDINGS
